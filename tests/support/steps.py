"""Calling one stage by hand: tables on disk as real artifacts, and the tools that the runner would give it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import artifact, rows
from pipeline.artifact import Artifact
from pipeline.executors.inline import InlinePool
from pipeline.plugin import load
from pipeline.tools import Tools
from tests.support.core import profile


def table(path: Path, name: str, made: list[dict[str, Any]] | pa.Table) -> Artifact:
    """Publish rows as an artifact at `path`."""
    with artifact.draft(path, "0" * 32) as draft:
        rows.write(draft.out, name, [rows.from_pylist(name, made) if isinstance(made, list) else made])
        return publish(draft, path, name)


def folder(path: Path) -> Artifact:
    """Publish the files that lie at `path` (such as a model) as an artifact beside it."""
    with artifact.draft(path.with_suffix(".artifact"), "0" * 32) as draft:
        for file in path.iterdir():
            (draft.out / file.name).write_bytes(file.read_bytes())
        return publish(draft, path.with_suffix(".artifact"), "policy")


def publish(draft: artifact.Draft, path: Path, makes: str) -> Artifact:
    return artifact.publish(draft, path, makes=makes, key="0" * 32, identity={}, inputs={}, facts={}, provenance={})


def tools(
    path: Path, *, round: int | None = 1, seed: int = 7, inputs: dict[str, tuple[Artifact, ...]] | None = None, **changes: Any
) -> Tools:
    """The tools of a step that is built at `path`; `changes` are the profile's."""
    work = path.with_name(path.name + ".work")
    for each in ("out", "work"):
        (work / each).mkdir(parents=True, exist_ok=True)
    address = f"round-{round:02d}/{path.name}" if round else f"start/{path.name}"
    return Tools(address, seed, round, inputs or {}, work / "out", work / "work", profile(**changes), pool=InlinePool())


def build(
    path: Path, stage: str, settings: dict[str, Any], inputs: dict[str, Artifact | list[Artifact]] | None = None, **kwargs: Any
) -> Artifact:
    """Run one stage and publish what it made; reference fields are filled in with their own names."""
    module = load("stages", stage)
    slots = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in (inputs or {}).items()}
    named = {
        name: [name] * len(value) if isinstance((inputs or {})[name], list) else name for name, value in slots.items() if "." not in name
    }
    config = module.Config.model_validate({**named, **settings})
    given = tools(path, inputs=slots, **kwargs)
    with artifact.draft(path, "0" * 32) as draft:
        facts = module.run(config, replace(given, out=draft.out))
        makes = module.makes(config) if hasattr(module, "makes") else module.MAKES
        return artifact.publish(
            draft, path, makes=makes, key="0" * 32, identity={}, inputs={}, facts=facts, provenance={}, leans_on=given.leans_on
        )


def prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def on_disk(messages: list[dict[str, str]]) -> list[dict[str, str | None]]:
    """Messages as a table gives them back."""
    return [{"tool_calls": None, **message} for message in messages]


def response(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    """A response as an engine leaves it; its token ids are its code points."""
    return {"text": text, "token_ids": [ord(c) for c in text], "logprob": -1.0, "finish_reason": finish_reason, "source": "policy"}


def candidates(texts: dict[str, list[str]], answers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Rows of a candidates table by id."""
    return [
        {
            "id": key,
            "prompt": prompt(f"say {key}"),
            "meta": {"answer": answers[key]} if answers and key in answers else {},
            "prompt_token_ids": [1, 2, 3],
            "tokenizer": "test",
            "responses": [response(text) for text in each],
        }
        for key, each in texts.items()
    ]
