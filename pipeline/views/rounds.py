"""A run at a glance: a table for each round, and one over all rounds."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.model import KINDS
from pipeline.plan import plan
from pipeline.recipe import sections
from pipeline.request import Asked
from pipeline.views import diagnostics, facts, screen


def collect(asked: Asked, only: str | None = None) -> dict[str, Any]:
    """What a run (or one of its rounds) made, as plain data."""
    made = facts.entries(plan(asked.recipe, asked.profile), asked)
    rounds: list[dict[str, Any]] = []
    for name, number, _ in sections(asked.recipe):
        steps = [each for each in made if each["address"].startswith(f"{name}/")]
        if only in (None, name):
            rounds.append({"name": name, "round": number, "metrics": facts.metrics(steps), "steps": steps})
    return {"run": str(asked.folder), "recipe": asked.recipe.name, "profile": asked.profile.name, "rounds": rounds}


def render(data: dict[str, Any], width: int) -> RenderableType:
    """The table over rounds, and where to look next."""
    head = screen.heading(data["run"], f"recipe {data['recipe']}, profile {data['profile']}")
    checks = [*diagnostics.render(data["rounds"], width), *diagnostics.told(data["rounds"])]
    return Group(head, Text(), summary(data["rounds"], width), *checks, *look(data))


def ended(data: dict[str, Any], width: int) -> RenderableType:
    """What is shown when a run has ended."""
    built, linked = len(data["built"]), len(data["linked"])
    head = f"{built} step{'s' * (built != 1)} built" if built or linked else "nothing to build: all was there"
    head += f", {linked} linked from {', '.join(sorted(set(data['linked'].values())))}" if linked else ""
    table = summary(data["rounds"], width)
    return Group(Text(), screen.heading(data["run"], head), Text(), table, *diagnostics.told(data["rounds"]), *look(data))


def look(data: dict[str, Any]) -> list[RenderableType]:
    """Which commands open what is there."""
    run, rounds = data["run"], list(reversed(data["rounds"]))
    last = next((each["name"] for each in rounds if any(step["done"] for step in each["steps"])), None)
    if last is None:
        return [Text(), Text("Nothing is there yet. To build it:"), screen.command(f"rematch run {run}")]
    pairs = next((step["address"] for each in rounds for step in each["steps"] if step["done"] and step["makes"] == "pairs"), None)
    more = [screen.command(f"rematch show {run} {pairs} --best 3")] if pairs else []
    return [Text(), Text("To look inside:"), screen.command(f"rematch show {run} {last}"), *more]


# What a narrow terminal does without, the least important first.
_SPARE = ("steps", "characters", "length", "samples", "score", "time", "loss")


def summary(rounds: list[dict[str, Any]], width: int) -> Table:
    """One row a round: what was sampled, kept, lost and won, in as many columns as the width allows."""
    headings = list(dict.fromkeys(name for each in rounds for name in each["metrics"]))
    # In the order of a round that has them all, rather than of the start, which has few.
    headings.sort(key=lambda name: max(list(each["metrics"]).index(name) for each in rounds if name in each["metrics"]))
    columns = {"": [each["name"] for each in rounds], "steps": [_progress(each) for each in rounds]}
    columns |= {name: [each["metrics"].get(name, "") for each in rounds] for name in headings}
    columns["time"] = [_time(each) for each in rounds]
    for name in _SPARE:
        if sum(max(len(cell) for cell in (title, *cells)) + screen.GAP for title, cells in columns.items()) - screen.GAP <= width:
            break
        columns.pop(name, None)
    rows = list(zip(*columns.values(), strict=True))
    return screen.table([(name, "right" if name else "left") for name in columns], rows)


def _progress(each: dict[str, Any]) -> str:
    done = sum(step["done"] for step in each["steps"])
    return str(done) if done == len(each["steps"]) else f"{done}/{len(each['steps'])}"


def _time(each: dict[str, Any]) -> str:
    known = [step["seconds"] for step in each["steps"] if step["seconds"] is not None]
    return screen.seconds(sum(known)) if known else ""


def round_table(name: str, steps: list[dict[str, Any]]) -> Table:
    """One row a step: what it made, its facts, its time."""
    rows = [[each["node"], each["stage"].rpartition(".")[2], _rows(each), _facts(each), screen.seconds(each["seconds"])] for each in steps]
    return screen.table([("node", "left"), ("stage", "left"), ("rows", "right"), ("facts", "wrap"), ("time", "right")], rows, title=name)


def _rows(each: dict[str, Any]) -> str:
    return screen.number((each["facts"] or {}).get("rows"))


def _facts(each: dict[str, Any]) -> Text:
    if each["facts"] is None:
        return Text("missing", style="dim")
    return Text(facts.line(each["makes"], each["facts"]))


def render_round(data: dict[str, Any]) -> RenderableType:
    """One round, step by step."""
    run, only = data["run"], data["rounds"][0]
    tables = [step for step in only["steps"] if step["done"] and step["makes"] not in (*KINDS, "report")]
    tables.sort(key=lambda step: step["makes"] != "pairs")
    hint = [Text(), Text("To see rows:"), screen.command(f"rematch show {run} {tables[0]['address']}")] if tables else []
    return Group(round_table(f"{run} {only['name']}", only["steps"]), *diagnostics.told([only]), *hint)
