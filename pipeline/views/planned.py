"""What a run would do: its steps, what exists, what is missing, how many rows and tokens that means; also as a graph."""

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline import artifact, document, events, lifetimes
from pipeline.model import KINDS
from pipeline.plan import estimate, plan
from pipeline.recipe import Recipe, whole_of
from pipeline.request import Asked
from pipeline.run import affected, status
from pipeline.views import screen
from pipeline.views.status import entry, held_by


def collect(asked: Asked, start_at: str | None = None) -> dict[str, Any]:
    """Every step with its state and its estimate; `start_at` counts that part and its readers as to be built."""
    steps = plan(asked.recipe, asked.profile)
    found = status(steps, asked.folder)
    again = set(affected(steps, start_at)) if start_at else set[str]()
    held, told = held_by(asked.folder) is not None, events.latest(asked.folder)
    rows = {
        step.address: made.manifest.facts["rows"]
        for step in steps
        if found[step.address].state in ("done", "dropped") and step.address not in again
        if (made := artifact.read(step.folder(asked.folder))) and "rows" in made.manifest.facts
    }
    expected = estimate(steps, rows)
    entries: list[dict[str, Any]] = []
    for step in steps:
        each = entry(step, found[step.address], asked, held, told.get(step.address, {}))
        if step.address in again and each["state"] != "missing":
            each |= {"state": "missing", "why": f"--from {start_at} builds it again"}
        guess = expected[step.address]
        entries.append({**each, "rows": guess.get("rows"), "tokens": guess.get("tokens"), "uses": sorted(step.uses), "key": step.key})
    states = {address: "missing" if address in again else each.state for address, each in found.items()}
    building = {step.address for step in lifetimes.to_build(steps, states)}
    todo = [each for each in entries if each["address"] in building or each["state"] in ("stale", "corrupt")]
    return {
        "run": str(asked.folder),
        "command": asked.command,
        "recipe": asked.recipe.name,
        "profile": asked.profile.name,
        "steps": entries,
        "to_build": [each["address"] for each in todo],
        "estimate": {
            "tokens": _sum(each["tokens"] for each in todo if "engine" in each["uses"]),
            "pairs": _sum(each["rows"] for each in todo if each["makes"] == "pairs"),
        },
        "blocked": [each["address"] for each in entries if each["state"] in ("stale", "corrupt")],
    }


def _sum(values: Any) -> int | None:
    """None as soon as one is unknown: a partial sum would pass for a total."""
    known = list(values)
    return None if None in known else sum(known)


def render(data: dict[str, Any], width: int) -> RenderableType:
    """The steps as a table, then the totals."""
    steps = data["steps"]
    wide = width >= 100
    columns = [("step", "left"), ("stage", "left"), ("state", "left"), ("rows", "right"), ("tokens", "right")]
    columns += [("reads", "wrap")] if wide else []
    lines = [
        [
            each["address"],
            each["stage"].rpartition(".")[2],
            screen.state(each["state"]),
            screen.number(each["rows"]) or ("" if each["makes"] in (*KINDS, "report") else "?"),
            screen.number(each["tokens"]) or ("?" if "engine" in each["uses"] else ""),
            *([", ".join(_near(address, each["address"]) for address in each["reads"])] if wide else []),
        ]
        for each in steps
    ]
    why = [Text(f"{each['address']}: {screen.safe(each['why'])}", style="yellow") for each in steps if each["why"] and each["root"]]
    head = screen.heading(f"recipe {data['recipe']}", f"profile {data['profile']}, run {data['run']}")
    return Group(head, Text(), screen.table(columns, lines), Text(), *why, *([Text()] if why else []), *_totals(data))


def _near(address: str, reader: str) -> str:
    """An address as a reader in the same round would write it."""
    return address.partition("/")[2] if address.split("/")[0] == reader.split("/")[0] else address


def _totals(data: dict[str, Any]) -> list[RenderableType]:
    todo, total = len(data["to_build"]), len(data["steps"])
    if not todo:
        return [Text(f"All {total} steps are done."), screen.command(f"rematch show {data['run']}")]
    tokens, pairs = data["estimate"]["tokens"], data["estimate"]["pairs"]
    known = ((tokens, "sampled tokens"), (pairs, "pairs"))
    guess = [f"{what} unknown" if count is None else f"at most {screen.number(count)} {what}" for count, what in known]
    if data["blocked"]:
        return [Text(f"Nothing would run: {len(data['blocked'])} of {total} steps are stale or corrupt.")]
    return [Text(f"{todo} of {total} steps would run: {', '.join(guess)}."), screen.command(data["command"])]


def graph(data: dict[str, Any]) -> RenderableType:
    """Nodes and arrows in plain text: a line a node, under its round, with what it reads."""
    lines: list[RenderableType] = []
    section = ""
    widest = max((len(each["node"]) for each in data["steps"]), default=0)
    stages = max((len(each["stage"].rpartition(".")[2]) for each in data["steps"]), default=0)
    last = {each["address"].split("/")[0]: each["node"] for each in data["steps"]}
    for each in data["steps"]:
        folder, _, node = each["address"].partition("/")
        if folder != section:
            lines.append(Text(folder, style="bold"))
            section = folder
        branch = "`--" if last[folder] == node else "|--"
        reads = ", ".join(_near(address, each["address"]) for address in each["reads"])
        stage = each["stage"].rpartition(".")[2]
        lines.append(Text.assemble(f"{branch} {node:<{widest}}  ", (f"{stage:<{stages}}", "dim"), f"  <-- {reads}" if reads else ""))
    return Group(*lines)


def whole(recipe: Recipe) -> str:
    """The recipe as YAML that needs no other file, a line for each node."""
    lines: list[str] = []
    for name, value in whole_of(recipe).items():
        if name in ("start", "round"):
            lines.append(f"{name}:" if value else f"{name}: {{}}")
            lines += [f"  {node}: {_flow(body)}" for node, body in value.items()]
        else:
            lines.append(f"{name}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    return document.written({"x": value}, flow=True, width=1 << 20).strip()[len("{x: ") : -1]
