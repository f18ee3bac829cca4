"""Asking a teacher what is not known yet: each answer is kept as it arrives, and so is each refusal that may be left out.

What another process is asking is waited for. After a refusal the others are asked again without it; those that were in
flight are kept, so that nothing is paid twice.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines import Completion, Engine, Request, RequestRefused
from models.chat import PromptTooLong
from pipeline.artifact import hash_of
from pipeline.errors import Refusal
from pipeline.tools import Tools
from stages.ask import store

SHOWN = 3
"""Refused prompts that are named."""


@contextmanager
def opened(folder: str, teacher: str, name: str) -> Generator[store.Answers]:
    """The cache of one teacher."""
    answers = store.Answers(Path(folder), teacher, name)
    try:
        yield answers
    finally:
        answers.close()


def refusals(teacher: dict[str, Any]) -> tuple[str, str]:
    """Whose cache the refusals of a teacher are: not that of its answers, which are kept when these are thrown away."""
    return hash_of(["refused", teacher["id"]]), f"refused-{teacher['name']}"


def too_many(address: str, path: Path, count: int, total: int, ids: list[str], most: float) -> Refusal:
    """What to say where more prompts are refused than the share `most` allows."""
    return Refusal(
        f"{address}: the teacher refuses {count} of {total} prompts, such as {', '.join(map(repr, ids[:SHOWN]))}, and at most "
        f"{most:.1%} are allowed; see why in {path} (remove it to have them asked again), change the prompts, or raise `max_refused`"
    )


@dataclass
class Questions:
    """The prompts of one shard, and what is known of them."""

    keys: list[str]
    """A prompt's place in both caches; equal for equal questions."""
    chats: list[Any]
    ids: list[str]
    settings: dict[str, Any]
    """How it is sampled: fields of a Request."""
    answers: store.Answers
    refused: store.Answers | None
    """None: a refusal fails the step."""
    most: float
    """Largest share of refused prompts among the `total` of the step."""
    total: int
    too_long: set[str] = field(default_factory=set[str])
    """Keys of prompts without room for an answer; the engine says so before it asks, so they need not be remembered."""

    def settled(self, key: str) -> bool:
        return key in self.answers or key in self.too_long or (self.refused is not None and key in self.refused)

    def refresh(self) -> None:
        self.answers.refresh()
        if self.refused is not None:
            self.refused.refresh()


def ask(questions: Questions, tools: Tools) -> int:
    """Settle every question, and return how many answers that took."""
    questions.refresh()
    missing = {key: i for i, key in reversed(list(enumerate(questions.keys))) if not questions.settled(key)}
    if not missing:
        return 0
    answers = questions.answers
    mine = answers.claim(sorted(missing, key=missing.__getitem__))
    others = [key for key in missing if key not in set(mine)]
    try:
        questions.refresh()  # what was answered between looking and claiming
        asked = _settle(questions, [key for key in mine if not questions.settled(key)], missing, tools)
    finally:
        answers.release(mine)
    for key in others:  # asked by another process; and by this one if that has failed
        answers.wait(key)
        try:
            questions.refresh()
            if not questions.settled(key):
                asked += _settle(questions, [key], missing, tools)
        finally:
            answers.release([key])
    return asked


class _LeftOut(Exception):
    """A prompt is left out; it is settled now, and others may not be."""


def _settle(questions: Questions, keys: list[str], missing: dict[str, int], tools: Tools) -> int:
    left = keys
    while left:
        try:
            _ask_all(questions, left, missing, tools)
        except _LeftOut:
            gone = [key for key in keys if questions.settled(key) and key not in questions.answers]
            if questions.refused is not None and len(gone) > questions.most * questions.total:
                ids = [questions.ids[missing[key]] for key in gone]
                raise too_many(tools.address, questions.refused.path, len(gone), questions.total, ids, questions.most) from None
        left = [key for key in left if not questions.settled(key)]
    return sum(key in questions.answers for key in keys)


def _ask_all(questions: Questions, keys: list[str], missing: dict[str, int], tools: Tools) -> None:
    answers = questions.answers
    engine: Engine = tools.engine("model")
    requests = [Request(messages=questions.chats[missing[key]], seed=int(key[:15], 16), **questions.settings) for key in keys]

    def keep(index: int, completion: Completion) -> None:
        answers.append(keys[index], store.pack(completion, engine.tokenizer))

    each: Any = getattr(engine, "complete_each", None)
    try:
        if each is not None:
            each(requests, keep)
        else:
            for index, completion in enumerate(engine.complete(requests)):
                keep(index, completion)
    except PromptTooLong as error:
        if questions.refused is not None:
            questions.too_long.add(keys[error.index])
            raise _LeftOut from None
        raise Refusal(
            f"{tools.address}: prompt {questions.ids[missing[keys[error.index]]]!r} has {error.tokens} tokens and the context of the "
            f"teacher holds {error.limit}, which leaves no room for an answer; drop it where the prompts are made, ask another "
            "teacher, or set `on_refusal: skip`"
        ) from None
    except RequestRefused as error:
        id = questions.ids[missing[keys[error.index]]]
        if questions.refused is not None and error.final:
            questions.refused.append(keys[error.index], {"prompt": id, "said": str(error)})
            questions.refused.sync()
            raise _LeftOut from None
        skip = "; `on_refusal: skip` leaves such prompts out" if error.final else ""
        raise Refusal(f"{tools.address}: prompt {id!r}: {error}{skip} (answers so far are kept)") from None
    finally:
        answers.sync()
