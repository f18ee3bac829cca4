"""The diagnostics of a run: every number of the reports that raise alarms, side by side over the rounds, and the alarms.

Any report whose facts hold a list `alarms` is shown; an alarm starts with the name of the fact that it is about.
"""

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from pipeline.measured import numbers
from pipeline.views import facts, screen

MARK = "!"
"""Stands after a number that an alarm is about."""


def reports(each: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a round that left diagnostics."""
    return [step for step in each["steps"] if step["facts"] is not None and isinstance(step["facts"].get("alarms"), list)]


def alarms(each: dict[str, Any]) -> list[str]:
    """What is out of bounds in a round, each with the node that says so."""
    return [f"{step['address']}: {alarm}" for step in reports(each) for alarm in step["facts"]["alarms"]]


def render(rounds: list[dict[str, Any]], width: int) -> list[RenderableType]:
    """A row for each number, a column for each round, as many as fit, the first and the last in any case; empty if there are none."""
    columns = {each["name"]: _column(each, several=_several(rounds)) for each in rounds if reports(each)}
    if not columns:
        return []
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    left_out: list[str] = []
    while len(columns) > 2 and _width(names, columns) > width:
        left_out.append(list(columns)[1])
        del columns[left_out[-1]]
    rows = [[name, *(column.get(name, "") for column in columns.values())] for name in names]
    parts: list[RenderableType] = [Text(), screen.table([("diagnostics", "left"), *((name, "right") for name in columns)], rows)]
    if left_out:
        parts.append(Text(f"without {', '.join(left_out)}, for want of width; --json has them all", style="dim"))
    return parts


def told(rounds: list[dict[str, Any]]) -> list[RenderableType]:
    """The alarms of all rounds, a line each; empty if there are none."""
    lines = [alarm for each in rounds for alarm in alarms(each)]
    return [Text(), Text("Alarms:", style="yellow"), *(Text(f"  {screen.safe(line)}", style="yellow") for line in lines)] if lines else []


def _several(rounds: list[dict[str, Any]]) -> bool:
    return len({step["node"] for each in rounds for step in reports(each)}) > 1


def _column(each: dict[str, Any], several: bool) -> dict[str, str]:
    """One round: the name of a number -> how it is shown, marked if an alarm is about it."""
    column: dict[str, str] = {}
    for step in reports(each):
        marked = {str(alarm).partition(":")[0] for alarm in step["facts"]["alarms"]}
        for name, value in numbers(step["facts"]):
            shown = facts.rate(name.rpartition(".")[2], value, 3) + (f" {MARK}" if name in marked else "")
            column[f"{step['node']}.{name}" if several else name] = shown
    return column


def _width(names: list[str], columns: dict[str, dict[str, str]]) -> int:
    first = max(map(len, names), default=0)
    return first + sum(screen.GAP + max(len(title), *(len(column.get(name, "")) for name in names)) for title, column in columns.items())
