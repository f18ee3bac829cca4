"""Deletes key phrases from one side of each pair, more or less of them: what `spo_degree` tells apart (arXiv:2409.17791).

Phrases are RAKE's (Rose et al., 2010): runs of words between punctuation and function words, each word scored by the words
it occurs with over its occurrences, a phrase by the sum of its words. Degree d of K deletes the share d / (K - 1) of the
different phrases, those of lowest score first. One degree is drawn for each pair, by its id and the step's seed.
Which phrases, in what order, and a fixed list of function words are our reading; no code was published.
"""

import re
from collections import Counter
from functools import partial
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipeline import rows as tables
from pipeline.artifact import Facts
from pipeline.draws import draw
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "candidates"
FUNCTION_WORDS = frozenset(
    """
    a about after all also an and any are as at be because been before but by can could did do does for from had has have he her his how
    i if in into is it its just may me more most must my no not of on one or other our out over she should so some such than that the their
    them then there these they this those through to under up was we were what when where which while who will with would you your
    """.split()  # noqa: SIM905
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_BREAK = re.compile(r"[^\w\s'’-]|\n")


class Config(Settings):
    rows: Annotated[str, Reads("pairs")]
    """Whose responses."""
    side: Literal["chosen", "rejected"]
    """Which of each pair's two."""
    degrees: int = Field(4, ge=2)
    """How many degrees there are, from 0 (nothing is deleted) to all phrases; that of the objective."""


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """A row for each pair."""
    return {"rows": inputs["rows"], "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    """Facts: rows, how many have each degree, and the share of characters that is left of each."""
    parts = tools.map(partial(_shard, config), tools.input("rows"), "candidates")
    every = range(config.degrees)
    counts, before, after = ([sum(part[name][d] for part in parts) for d in every] for name in ("counts", "before", "after"))
    left = [round(a / b, 4) if b else None for a, b in zip(after, before, strict=True)]
    return {"rows": sum(counts), "degrees": counts, "characters_left": left}


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    made: list[dict[str, Any]] = []
    facts: Facts = {name: [0] * config.degrees for name in ("counts", "before", "after")}
    for row in table.select(["id", "prompt", "prompt_token_ids", "tokenizer", config.side]).to_pylist():
        *before, last = row[config.side]
        text = last["content"]
        degree = draw(tools.seed, row["id"]) % config.degrees
        kept = without(text, degree / (config.degrees - 1))
        for name, count in (("counts", 1), ("before", len(text)), ("after", len(kept))):
            facts[name][degree] += count
        response: dict[str, Any] = {"text": kept, "finish_reason": "stop", "source": tools.address}
        if before or last["tool_calls"]:
            response["messages"] = [*before, {**last, "content": kept}]
        made.append({**row, "meta": {"degree": degree}, "responses": [response]})
    return tables.from_pylist("candidates", [{k: v for k, v in row.items() if k != config.side} for row in made]), facts


def without(text: str, share: float) -> str:
    """The text less a share of its different phrases, those of lowest score first (of equal ones, the earlier)."""
    spans = phrases(text)
    known = list(dict.fromkeys(words for words, _ in spans))
    scores = scored([words for words, _ in spans])
    gone = set(sorted(known, key=lambda words: sum(scores[word] for word in words))[: round(share * len(known))])
    for words, (start, stop) in reversed(spans):
        if words in gone:
            text = text[:start].rstrip(" ") + text[stop:]
    return text.lstrip(" ")


def phrases(text: str) -> list[tuple[tuple[str, ...], tuple[int, int]]]:
    """The candidate phrases in order: lower-cased words, and where they stand."""
    found: list[tuple[tuple[str, ...], tuple[int, int]]] = []
    run: list[re.Match[str]] = []

    def close() -> None:
        if run:
            found.append((tuple(match.group().lower() for match in run), (run[0].start(), run[-1].end())))
        run.clear()

    for match in _WORD.finditer(text):
        if run and _BREAK.search(text, run[-1].end(), match.start()):
            close()
        if match.group().lower() in FUNCTION_WORDS:
            close()
        else:
            run.append(match)
    close()
    return found


def scored(some: list[tuple[str, ...]]) -> dict[str, float]:
    """RAKE's score of each word: the words of the phrases that it occurs in, over its occurrences."""
    frequency = Counter(word for words in some for word in words)
    degree = Counter[str]()
    for words in some:
        for word in words:
            degree[word] += len(words)
    return {word: degree[word] / frequency[word] for word in frequency}
