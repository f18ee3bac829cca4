"""Asks a teacher once for every prompt, and keeps each answer for ever: anchors (arXiv:2601.20687), teacher responses of DNO
(arXiv:2404.03715).

Answers are appended to a cache outside the run (the profile's `answers`) as they arrive, by what was asked: teacher,
messages and sampling settings. What is there is never asked again, by no run; a killed step loses only what was in flight.
With `on_refusal: skip`, what a teacher refuses is kept in the same way, in a file of its own beside the answers.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipeline import model, rows
from pipeline.artifact import Facts, hash_of
from pipeline.placement import Need
from pipeline.plugin import Gate, Reads, Settings
from pipeline.tools import Tools
from stages import _columns
from stages._completions import candidates
from stages.ask import questions, store
from stages.ask.questions import Questions

VERSION = 1
MAKES = "candidates"


class Config(Settings):
    model: Annotated[str, Reads("policy", "endpoint")]
    """The teacher."""
    prompts: Annotated[str, Reads("prompts")]
    """What it is asked."""
    temperature: float = Field(0.0, ge=0, le=2)
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens that together have this probability."""
    top_k: int = Field(0, ge=0)
    """Sample from this many likeliest tokens; 0 is all."""
    max_new_tokens: int = Field(2048, ge=1)
    """Longest answer; what reaches it is kept, with finish_reason `length`."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer."""
    on_refusal: Literal["fail", "skip"] = "fail"
    """A prompt that the teacher will not answer, by its content or length, however often it is asked: fail, or leave it out
    and remember that. `fail` asks again what was refused before. A prompt that is left out has no row here: a judge that
    joins this table with others needs it as its `prompts`."""
    max_refused: Annotated[float, Gate()] = Field(0.05, ge=0, le=1)
    """With `skip`, the step fails if a larger share of the prompts than this is refused."""


def uses(config: Config) -> frozenset[Need]:
    """The profile's engine."""
    return frozenset({"engine"})


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """One row per prompt; tokens are those of the longest possible answers, were none known yet."""
    prompts = inputs["prompts"]
    return {"rows": prompts, "tokens": None if prompts is None else prompts * config.max_new_tokens}


def run(config: Config, tools: Tools) -> Facts:
    """Facts: `asked` answers were paid for by this step, `known` were in the cache; token counts are of all of them.

    With `skip` also `refused`, the prompts that were left out, and the ids of some of them.
    """
    teacher = _teacher(tools)
    total = rows.count(tools.input("prompts").path)
    parts = tools.map(partial(_shard, config, teacher, total), tools.input("prompts"), "candidates")
    sums = {name: sum(part[name] for part in parts) for name in _COUNTS}
    left_out = _left_out(config, teacher, parts, total, tools) if config.on_refusal == "skip" else {}
    fingerprints = {tokenizer for part in parts for tokenizer in part["tokenizers"]}
    return {
        **sums,
        **left_out,
        "truncated_share": sums["truncated"] / sums["rows"] if sums["rows"] else 0.0,
        "mean_length": sums["tokens"] / sums["rows"] if sums["rows"] else 0.0,
        "teacher": teacher["name"],
        "tokenizer": ",".join(sorted(fingerprints)) or None,
    }


_COUNTS = ("rows", "asked", "known", "torn_lines", "tokens", "prompt_tokens", "truncated", "filtered", "empty")
_APART = {"model", "prompts", "on_refusal", "max_refused"}
"""Fields that do not change what is asked."""


def _left_out(config: Config, teacher: dict[str, Any], parts: list[Facts], total: int, tools: Tools) -> Facts:
    count, ids = sum(part["refused"] for part in parts), [id for part in parts for id in part["refused_ids"]][: questions.SHOWN]
    if count > config.max_refused * total:
        # They lack what is left out, which may yet be asked again; to make them from the cache costs nothing.
        shutil.rmtree(tools.work / "shards")
        path = store.place(Path(tools.profile.answers), *questions.refusals(teacher))
        raise questions.too_many(tools.address, path, count, total, ids, config.max_refused)
    return {"refused": count, "refused_ids": ids}


def _teacher(tools: Tools) -> dict[str, Any]:
    """What identifies who answers, whatever machine it is asked on: an endpoint's model by name, another by its digest."""
    made = tools.inputs["model"][0]
    served = model.endpoint(made.path)
    name = served.name if served else f"{made.path.parent.name}/{made.path.name}"
    identity = {"endpoint": served.name} if served else {"digest": made.manifest.digest}
    if tools.profile.engine.module.SCRIPTED:  # a script's answers must never pass as the teacher's
        identity["scripted"] = tools.profile.engine.config.model_dump(mode="json")
    return {"name": name, "id": hash_of(identity)}


def _shard(config: Config, teacher: dict[str, Any], total: int, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    answers: store.Answers = tools.warm(questions.opened, tools.profile.answers, teacher["id"], teacher["name"])
    skip = config.on_refusal == "skip"
    refused = tools.warm(questions.opened, tools.profile.answers, *questions.refusals(teacher)) if skip else None
    torn = answers.torn
    answers.torn = 0
    chats, ids = [tuple(messages) for messages in _columns.messages(table["prompt"])], table["id"].to_pylist()
    settings = config.model_dump(mode="json", exclude=_APART)
    keys = [hash_of([teacher["id"], list(chat), settings]) for chat in chats]
    sampling = config.model_dump(exclude=_APART)
    asked = questions.ask(Questions(keys, chats, ids, sampling, answers, refused, config.max_refused, total), tools)
    there = [i for i, key in enumerate(keys) if key in answers]
    left_out = [id for id, key in zip(ids, keys, strict=True) if key not in answers]
    found = [store.unpack(answers.get(keys[i])) for i in there]
    completions = [completion for completion, _ in found]
    facts = {
        "rows": len(there),
        "asked": asked,
        "known": len(there) - asked,
        "refused": len(left_out),
        "refused_ids": left_out[: questions.SHOWN],
        "torn_lines": torn,
        "tokens": sum(completion.response_tokens for completion in completions),
        "prompt_tokens": sum(completion.prompt_tokens for completion in completions),
        "truncated": sum(completion.responses[0].finish_reason == "length" for completion in completions),
        "filtered": sum(completion.responses[0].finish_reason == "content_filter" for completion in completions),
        "empty": sum(not completion.responses[0].text.strip() for completion in completions),
        "tokenizers": sorted({tokenizer for _, tokenizer in found if tokenizer is not None}),
    }
    kept = table.take(pa.array(there, pa.int64())) if left_out else table
    return candidates(kept, completions, [tokenizer for _, tokenizer in found], teacher["name"]), facts
