"""A task made up on the spot: sort the letters of a word. It learns in seconds and is checked exactly.

Whether a word is a held-out prompt, a training prompt or a demonstration depends on a hash of the word alone, so
the splits are disjoint whatever counts, lengths and alphabets are used. The same settings give the same rows,
whatever step reads them. A share of the answers can have a slip, so that something is left to learn.
"""

import random
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from pipeline.draws import draw
from pipeline.errors import Refusal
from pipeline.plugin import Settings
from sources import Record

VERSION = 1


class Config(Settings):
    count: int = Field(ge=1)
    """Distinct prompts."""
    split: Literal["train", "held_out", "demonstrations"] = "train"
    """Which of the disjoint parts of the task to draw from: of all words 1 in 10, 3 in 10 and 6 in 10 belong to
    `held_out`, `train` and `demonstrations`."""
    min_length: int = Field(3, ge=1)
    """Letters of the shortest word."""
    max_length: int = Field(6, ge=1)
    """Letters of the longest word."""
    alphabet: str = Field("abcdefgh", min_length=2)
    """The letters; sorted order is that of their code points."""
    template: str = "{letters}"
    """The user message; `{letters}` is where the word goes."""
    corrupt: float = Field(0.0, ge=0, le=1)
    """Share of the answers shown as demonstrations that have a slip: two neighbours swapped, or one letter replaced."""
    offset: int = 0
    """Other numbers give other words of the same split."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}")
        if "{letters}" not in self.template:
            raise ValueError(f"template {self.template!r} has no place for {{letters}}")
        if len(set(self.alphabet)) < 2 or len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError(f"alphabet {self.alphabet!r} must be two or more different letters")
        return self


def read(config: Config) -> Iterator[Record]:
    """`count` distinct words with their sorted letters as `meta.answer` and, right or wrong, as the demonstration.

    The words are part of the task, so that prompts and demonstrations can name the same ones.
    """
    for word in _words(config):
        answer = "".join(sorted(word))
        own = random.Random(f"{config.offset} {word}")
        response = _slip(answer, config.alphabet, own) if own.random() < config.corrupt else answer
        content = config.template.replace("{letters}", word)
        yield Record(({"role": "user", "content": content},), {"answer": answer}, response)


def split_of(word: str) -> str:
    """The split that a word belongs to: a property of the word, not of any draw."""
    tenth = draw(word) * 10 >> 64
    return "held_out" if tenth < 1 else "train" if tenth < 4 else "demonstrations"


def _words(config: Config) -> Iterator[str]:
    draw = random.Random(f"letters {config.offset} {config.split}")
    seen: set[str] = set()
    misses = 0
    while len(seen) < config.count:
        length = draw.randint(config.min_length, config.max_length)
        word = "".join(draw.choices(config.alphabet, k=length))
        if word in seen or split_of(word) != config.split:
            misses += 1
            if misses > 1000 + 200 * config.count:
                raise Refusal(
                    f"source letters: found {len(seen)} of {config.count} different {config.split} words of {config.min_length} to "
                    f"{config.max_length} letters out of {len(config.alphabet)}; ask for fewer, or for longer words"
                )
            continue
        seen.add(word)
        yield word


def _slip(answer: str, alphabet: str, draw: random.Random) -> str:
    letters = list(answer)
    swaps = [i for i in range(len(letters) - 1) if letters[i] != letters[i + 1]]
    if swaps and draw.random() < 0.5:
        at = draw.choice(swaps)
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
    else:
        at = draw.randrange(len(letters))
        letters[at] = draw.choice([letter for letter in alphabet if letter != letters[at]])
    return "".join(letters)
