"""Rows of an artifact's table: which ones to show, and how each kind of row looks. Model text is never obeyed."""

import heapq
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline import rows
from pipeline.errors import Refusal
from pipeline.views import screen

Row = dict[str, Any]
SCORES = {"pairs": ["chosen_score", "rejected_score"], "judged": ["scores"]}
"""The columns of each table that --best and --worst rank by."""


def pick(folder: Path, table: str, *, count: int, at: str | None, best: int | None, worst: int | None) -> list[Row]:
    """The rows of a table that are asked for: the first `count`, the one with id `at`, or those with the largest or smallest score gap."""
    if at is not None:
        return _by_id(folder, table, at)
    if best is not None or worst is not None:
        return _by_gap(folder, table, best or worst or 1, largest=best is not None)
    return rows.read(folder, stop=count).to_pylist()


def _by_id(folder: Path, table: str, at: str) -> list[Row]:
    keys = ["id", "prompt_id"] if table == "pairs" else ["id"]
    found: list[int] = []
    start = 0
    for part in rows.stream(folder, keys):
        columns = [part[name].to_pylist() for name in keys]
        found += [start + i for i, ids in enumerate(zip(*columns, strict=True)) if any(str(each).startswith(at) for each in ids)]
        start += part.num_rows
    if not found:
        raise Refusal(f"{folder}: none of its {start} rows has an id that starts with '{at}'; ids are those that `rematch show` prints")
    return [_row(folder, i) for i in found]


def _by_gap(folder: Path, table: str, count: int, *, largest: bool) -> list[Row]:
    columns = SCORES.get(table)
    if columns is None:
        raise Refusal(f"{folder}: its rows have no scores to rank by; --best and --worst are for judged and pairs")
    gaps: list[tuple[float, int]] = []
    start = 0
    for part in rows.stream(folder, columns):
        for i, values in enumerate(zip(*(part[name].to_pylist() for name in columns), strict=True)):
            scores = cast(list[float | None], list(values) if len(columns) == 2 else values[0] or [])
            known = [score for score in scores if score is not None]
            if len(known) > 1:
                gaps.append((max(known) - min(known), start + i))
        start += part.num_rows
    chosen = heapq.nlargest(count, gaps, key=lambda each: (each[0], -each[1])) if largest else heapq.nsmallest(count, gaps)
    return [_row(folder, i) for _, i in chosen]


def _row(folder: Path, index: int) -> Row:
    return rows.read(folder, start=index, stop=index + 1).to_pylist()[0]


def render(table: str, made: list[Row]) -> RenderableType:
    """Rows of one table, one below the other."""
    show: Callable[[Row], RenderableType] = {
        "prompts": _prompt_row, "candidates": _candidates, "judged": _candidates, "pairs": _pair, "logprobs": _logprobs,
    }.get(table, _plain)  # fmt: skip
    parts: list[RenderableType] = []
    for row in made:
        parts += [Text(screen.safe(row.get("id", "")), style="bold"), Padding(show(row), (0, 0, 1, 2), expand=False)]
    return Group(*parts)


def messages(value: list[Row]) -> Text:
    """A conversation: each message under its role, the role left out where a lone user speaks."""
    text = Text()
    for message in value:
        if len(value) > 1:
            text.append(f"{screen.safe(message['role'])}: ", style="dim")
        text.append(screen.safe(message["content"]))
        text.append("\n")
        if message.get("tool_calls"):
            text.append(f"calls {screen.safe(message['tool_calls'])}\n", style="dim")
    text.rstrip()
    return text


def _prompt_row(row: Row) -> RenderableType:
    meta = json.loads(row["meta"]) if row.get("meta") else None
    return Group(messages(row["prompt"]), *([Text(screen.shorten(json.dumps(meta, ensure_ascii=False), 200), style="dim")] if meta else []))


def _candidates(row: Row) -> RenderableType:
    scores: list[float | None] = row.get("scores") or []
    wins: list[list[float]] | None = row.get("wins")
    order = list(range(len(row["responses"])))
    if scores:
        order.sort(key=lambda i: (scores[i] is None, -(scores[i] or 0)))
    headings = [("#", "right"), *([("score", "right")] if scores else []), *([("beats", "right")] if wins else [])]
    headings += [("ended", "left"), ("response", "wrap")]
    lines: list[list[RenderableType]] = []
    for i in order:
        response = row["responses"][i]
        line: list[RenderableType] = [str(i)]
        if scores:
            line.append("undecided" if scores[i] is None else screen.number(scores[i]))
        if wins:
            others = [p for j, p in enumerate(wins[i]) if j != i]
            line.append(f"{sum(others) / len(others):.0%}" if others else "")
        lines.append([*line, screen.safe(response["finish_reason"] or ""), _response(response)])
    return Group(messages(row["prompt"]), Padding(screen.table(headings, lines), (0, 0, 0, 2), expand=False))


def _response(response: Row) -> Text:
    return messages(response["messages"]) if response.get("messages") else Text(screen.safe(response["text"]))


def _pair(row: Row) -> RenderableType:
    sides = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True)
    for side, style in (("chosen", "green"), ("rejected", "red")):
        sides.add_column(Text(f"{side}{_worth(row, side)}", style=f"bold {style}"), ratio=1, overflow="fold")
    sides.add_row(messages(row["chosen"]), messages(row["rejected"]))
    about = [f"{name} {screen.number(row[name])}" for name in ("label", "weight") if row.get(name) not in (None, 1.0)]
    return Group(messages(row["prompt"]), sides, *([Text(", ".join(about), style="dim")] if about else []))


def _worth(row: Row, side: str) -> str:
    score, wins = row.get(f"{side}_score"), row.get(f"{side}_win_rate")
    parts = [f"score {screen.number(score)}"] if score is not None else []
    parts += [f"wins {wins:.0%}"] if wins is not None else []
    return f"  {', '.join(parts)}" if parts else ""


def _logprobs(row: Row) -> RenderableType:
    each: list[list[float | None]] = row["logprobs"]
    known = [[logp for logp in tokens if logp is not None] for tokens in each]
    sums = [(len(tokens), sum(tokens)) for tokens in known]
    lines = [[str(i), str(n), screen.number(total), screen.number(total / n) if n else ""] for i, (n, total) in enumerate(sums)]
    return screen.table([("response", "right"), ("tokens", "right"), ("logprob", "right"), ("per token", "right")], lines)


def _plain(row: Row) -> RenderableType:
    return Group(*(Text(f"{name}: {screen.shorten(value, 400)}") for name, value in row.items() if name != "id"))
