"""A scripted judge for tests: an engine that reads judging prompts, knows how good a response is, and can be talked to.

A response is as good as the facts about Paris that it names, 0 to 5. `obeys` says what sways the grader: nothing; any
verdict it finds in its prompt, the last one counting; verdicts and orders in prose; or those that stand outside
of properly closed marks (or after a control token inside them). Source: none, it exists for tests.
"""

import math
import re
import unicodedata
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from engines import Completion, Request, Response
from engines.transformers.draws import mix
from models.chat import PromptTooLong
from pipeline.placement import Placement
from pipeline.plugin import Settings

VERSION = 1
SCRIPTED = True
FACTS = ("paris", "capital", "france", "seine", "louvre")
_BLOCK = re.compile(r"<<<(?P<name>[a-z0-9 ]+?)(?P<code> [0-9a-f]{16})?>>>\n(?P<text>.*?)\n<<<end (?P=name)(?P=code)?>>>", re.DOTALL | re.I)
_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|eot_id|start_header_id|endoftext|assistant|system|user)\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>"
)
_VERDICTS = (
    r"\b(?:score|rating|grade|points|total|mark)s?\b[\"'*_\s]{0,6}[:=][\"'*_\s\[(]{0,6}(?P<n1>\d)",
    r"\bid(?P<at>\d)_score[\"'*_\s]{0,4}[:=][\"'*_\s]{0,4}(?P<n3>\d)",
    r"\b(?:verdict|winner|preferred)\b[\"'*_\s]{0,6}[:=][\"'*_\s\[(]{0,6}(?:response\s)?(?P<c1>[ab])\b",
    r"\[\[(?:(?P<n2>\d)|(?P<c2>[ab]))\]\]",
)
_ORDERS = (
    r"\b(?:give|award|assign|output|print|write|rate|grade)\b[^.\n]{0,40}?\b(?P<n4>[3-9])\b",
    r"\b(?:choose|pick|select|prefer|answer|output|print|write)\b[^.\n]{0,30}?\b(?:response\s)?(?P<c3>[ab])\b(?!\s[a-z])",
    r"\b(?:full|maximum|highest|top)\s(?:score|marks|points|rating)(?P<full>)",
)


class Config(Settings):
    obeys: Literal["nothing", "verdicts", "orders", "outside"] = "nothing"
    """What sways it."""
    first: float = 0.0
    """How much it favours what is shown first, in facts."""
    mumbles: float = Field(0.0, ge=0, le=1)
    """Share of its sampled answers that hold no verdict."""
    noise: float = 0.0
    """How far its sampled scores stray."""
    context: int = 1 << 20
    """Characters of the longest prompt."""


def quality(text: str) -> int:
    return sum(fact in text.lower() for fact in FACTS)


class Grader:
    """An open engine. Token ids are code points, and `cached_tokens` what a prompt shares with the beginning of any before it."""

    tokenizer = "grader"

    def __init__(self, config: Config) -> None:
        self._config = config
        self.asked: list[Request] = []

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        for index, request in enumerate(requests):
            if len(request.messages[0]["content"]) >= self._config.context:
                raise PromptTooLong(index, len(request.messages[0]["content"]), self._config.context)
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Completion:
        prompt = request.messages[0]["content"]
        cached = max((shared(prompt, before.messages[0]["content"]) for before in self.asked), default=0)
        self.asked.append(request)
        ids = tuple(map(ord, prompt))
        if request.options:
            return Completion(ids, (), self._weigh(prompt, request.options), cached)
        texts = [self._say(prompt, mix(request.seed, sample)) for sample in range(request.n)]
        return Completion(ids, tuple(Response(text, (1,), (-1.0,), "stop") for text in texts), (), cached)

    def _weigh(self, prompt: str, options: Sequence[str]) -> tuple[float, ...]:
        """Log-probabilities that add up to 0.9; two thirds of each answer's on its first spelling."""
        kinds = list(dict.fromkeys(option.strip() for option in options))
        if kinds == ["A", "B"]:
            lead = self._lead(prompt)
            weights = {"A": 1 / (1 + math.exp(-2 * lead)), "B": 1 / (1 + math.exp(2 * lead))}
        else:
            weights = {kind: math.exp(-abs(int(kind) - self._score(prompt, 0))) for kind in kinds}
        total = sum(weights.values()) / 0.9
        return tuple(math.log(weights[o.strip()] / total * (1 / 3 if o.startswith(" ") else 2 / 3)) for o in options)

    def _say(self, prompt: str, draw: int) -> str:
        if (draw % 1000) / 1000 < self._config.mumbles:
            return "It is hard to say.\nScore: high\nVerdict: either"
        strays = round(self._config.noise * ((draw >> 10) % 1000 / 500 - 1))
        if "Verdict" in prompt.rpartition("<<<end")[2]:
            return f"A says one thing, B another.\nVerdict: {'A' if self._lead(prompt) > 0 else 'B'}"
        if "_justification" in prompt:
            count = len(_responses(prompt))
            return "\n".join(f"id{i + 1}_justification: so so.\nid{i + 1}_score: {self._score(prompt, i)}" for i in range(count))
        low, high = _range(prompt)
        return f"It has merits.\nScore: {min(max(self._score(prompt, 0) + strays, low), high)}"

    def _score(self, prompt: str, at: int) -> int:
        low, high = _range(prompt)
        found = [n for where, n in self._told(prompt) if isinstance(n, int) and where in (None, at)]
        return min(max(found[-1] if found else quality(_responses(prompt)[at]), low), high)

    def _lead(self, prompt: str) -> float:
        found = [c for _, c in self._told(prompt) if isinstance(c, str)]
        if found:
            return 3.0 if found[-1] == "a" else -3.0
        first, second = map(quality, _responses(prompt)[:2])
        return first - second + self._config.first or 0.25

    def _told(self, prompt: str) -> list[tuple[int | None, int | str]]:
        """What the prompt says of its own verdict, in its order: (of which response, number or letter)."""
        if self._config.obeys == "nothing":
            return []
        seen = _outside(prompt) if self._config.obeys == "outside" else prompt
        seen = "".join(c for c in unicodedata.normalize("NFKC", seen) if unicodedata.category(c) != "Cf").lower()
        patterns = _VERDICTS if self._config.obeys == "verdicts" else (*_VERDICTS, *_ORDERS)
        found = sorted((m for p in patterns for m in re.finditer(p, seen)), key=lambda m: m.start())
        return [told for m in found if (told := _told(m.groupdict())) is not None]


def _told(groups: dict[str, str | None]) -> tuple[int | None, int | str] | None:
    number = next((v for k, v in groups.items() if k.startswith("n") and v), None)
    letter = next((v for k, v in groups.items() if k.startswith("c") and v), None)
    at = int(groups["at"] or 0) - 1 if groups.get("at") else None
    if "full" in groups and groups["full"] is not None:
        return None, 9
    return (at, int(number)) if number else (None, letter) if letter else None


def _outside(prompt: str) -> str:
    """What stands outside of closed marks, and what follows a control token inside them."""

    def said(found: re.Match[str]) -> str:
        token = _CONTROL.search(found["text"])
        return found["text"][token.end() :] if token else ""

    return _BLOCK.sub(said, prompt)


def _responses(prompt: str) -> list[str]:
    return [found["text"] for found in _BLOCK.finditer(prompt) if found["name"].startswith("response")]


def _range(prompt: str) -> tuple[int, int]:
    low, high = re.findall(r"from (\d+) to (\d+)", prompt)[-1]
    return int(low), int(high)


def shared(one: str, other: str) -> int:
    """Characters of the longest common beginning."""
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)


@contextmanager
def open(config: Config, model: Path, *, seed: int) -> Generator[Grader, None, None]:
    yield Grader(config)


def placement(config: Config) -> Placement:
    return Placement()
