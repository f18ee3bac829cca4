"""Asks a teacher once for every prompt, and keeps each answer for ever: anchors (arXiv:2601.20687), teacher responses of DNO
(arXiv:2404.03715).

Answers are appended to a cache outside the run (the profile's `answers`) as they arrive, by what was asked: teacher,
messages and sampling settings. What is there is never asked again, by no run; a killed step loses only what was in flight.
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from engines import Completion, Request, RequestRefused
from engines._chat import PromptTooLong
from pipeline import model
from pipeline.artifact import Artifact, Facts, hash_of
from pipeline.errors import Refusal
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools
from stages import _answers
from stages._completions import candidates

VERSION = 1
MAKES = "candidates"


class Config(Settings):
    model: Annotated[str, Reads("model")]
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


def uses(config: Config) -> str:
    """The profile's engine."""
    return "engine"


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """One row per prompt; tokens are those of the longest possible answers, were none known yet."""
    prompts = inputs["prompts"]
    return {"rows": prompts, "tokens": None if prompts is None else prompts * config.max_new_tokens}


def run(config: Config, inputs: dict[str, tuple[Artifact, ...]], out: Path, tools: Tools) -> Facts:
    """Facts: `asked` answers were paid for by this step, `known` were in the cache; token counts are of all of them."""
    teacher = _teacher(tools)
    parts = tools.map(partial(_shard, config, teacher), inputs["prompts"][0], "candidates", out, uses="engine")
    sums = {name: sum(part[name] for part in parts) for name in _COUNTS}
    fingerprints = {tokenizer for part in parts for tokenizer in part["tokenizers"]}
    return {
        **sums,
        "truncated_share": sums["truncated"] / sums["rows"] if sums["rows"] else 0.0,
        "mean_length": sums["tokens"] / sums["rows"] if sums["rows"] else 0.0,
        "teacher": teacher["name"],
        "tokenizer": ",".join(sorted(fingerprints)) or None,
    }


_COUNTS = ("rows", "asked", "known", "torn_lines", "tokens", "prompt_tokens", "truncated", "filtered", "empty")


def _teacher(tools: Tools) -> dict[str, Any]:
    """What identifies who answers, whatever machine it is asked on: an endpoint's model by name, another by its digest."""
    made = tools.inputs["model"][0]
    served = model.endpoint(made.path)
    name = served.name if served else f"{made.path.parent.name}/{made.path.name}"
    identity = {"endpoint": served.name} if served else {"digest": made.manifest.digest}
    if tools.profile.engine.module.SCRIPTED:  # a script's answers must never pass as the teacher's
        identity["scripted"] = tools.profile.engine.config.model_dump(mode="json")
    return {"name": name, "id": hash_of(identity)}


@contextmanager
def _opened(folder: str, teacher: str, name: str) -> Generator[_answers.Answers]:
    answers = _answers.Answers(Path(folder), teacher, name)
    try:
        yield answers
    finally:
        answers.close()


def _shard(config: Config, teacher: dict[str, Any], table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    answers: _answers.Answers = tools.warm(_opened, tools.profile.answers, teacher["id"], teacher["name"])
    torn = answers.torn
    answers.torn = 0
    answers.refresh()
    chats = [tuple(messages) for messages in table["prompt"].to_pylist()]
    settings = config.model_dump(mode="json", exclude={"model", "prompts"})
    keys = [hash_of([teacher["id"], list(chat), settings]) for chat in chats]
    missing = {key: i for i, key in reversed(list(enumerate(keys))) if key not in answers}
    asked = _ask(config, answers, missing, chats, table["id"].to_pylist(), tools) if missing else 0
    found = [_answers.unpack(answers.get(key)) for key in keys]
    completions = [completion for completion, _ in found]
    facts = {
        "rows": table.num_rows,
        "asked": asked,
        "known": table.num_rows - asked,
        "torn_lines": torn,
        "tokens": sum(completion.response_tokens for completion in completions),
        "prompt_tokens": sum(completion.prompt_tokens for completion in completions),
        "truncated": sum(completion.responses[0].finish_reason == "length" for completion in completions),
        "filtered": sum(completion.responses[0].finish_reason == "content_filter" for completion in completions),
        "empty": sum(not completion.responses[0].text.strip() for completion in completions),
        "tokenizers": sorted({tokenizer for _, tokenizer in found if tokenizer is not None}),
    }
    return candidates(table, completions, [tokenizer for _, tokenizer in found], teacher["name"]), facts


def _ask(config: Config, answers: _answers.Answers, missing: dict[str, int], chats: list[Any], ids: list[str], tools: Tools) -> int:
    """Ask what is missing and append it; what another process is asking is waited for, and asked if that one failed."""
    mine = answers.claim(sorted(missing, key=missing.__getitem__))
    others = [key for key in missing if key not in set(mine)]
    try:
        answers.refresh()  # what was answered between looking and claiming
        asked = _ask_all(config, answers, [key for key in mine if key not in answers], missing, chats, ids, tools)
    finally:
        answers.release(mine)
    for key in others:
        answers.wait(key)
        try:
            answers.refresh()
            if key not in answers:
                asked += _ask_all(config, answers, [key], missing, chats, ids, tools)
        finally:
            answers.release([key])
    return asked


def _ask_all(
    config: Config, answers: _answers.Answers, keys: list[str], missing: dict[str, int], chats: list[Any], ids: list[str], tools: Tools
) -> int:
    if not keys:
        return 0
    engine = tools.engine("model")
    settings = config.model_dump(exclude={"model", "prompts"})
    requests = [Request(messages=chats[missing[key]], seed=int(key[:15], 16), **settings) for key in keys]

    def keep(index: int, completion: Completion) -> None:
        answers.append(keys[index], _answers.pack(completion, engine.tokenizer))

    try:
        if hasattr(engine, "complete_each"):
            engine.complete_each(requests, keep)
        else:
            for index, completion in enumerate(engine.complete(requests)):
                keep(index, completion)
    except PromptTooLong as error:
        raise Refusal(
            f"{tools.address}: prompt {ids[missing[keys[error.index]]]!r} has {error.tokens} tokens and the context of the teacher holds "
            f"{error.limit}, which leaves no room for an answer; drop it where the prompts are made, or ask another teacher"
        ) from None
    except RequestRefused as error:
        raise Refusal(f"{tools.address}: prompt {ids[missing[keys[error.index]]]!r}: {error} (answers so far are kept)") from None
    finally:
        answers.sync()
    return len(keys)
