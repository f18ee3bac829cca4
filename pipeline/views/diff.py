"""What differs between two runs, or two rounds: settings, facts, and which prompts make which pairs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline import artifact, rows
from pipeline.plan import Step, plan
from pipeline.recipe import at_round, filled, sections
from pipeline.request import Asked
from pipeline.run import difference
from pipeline.views import facts, screen


def collect(left: Asked, right: Asked, left_round: str, right_round: str) -> dict[str, Any]:
    """Compare two runs (empty rounds: every round with its namesake), or one round of each."""
    places = [(left_round, right_round)] if left_round else _common(left, right)
    sides = [{step.address: step for step in plan(each.recipe, each.profile)} for each in (left, right)]
    parts: list[dict[str, Any]] = []
    for one, other in places:
        nodes = [step.node for step in sides[0].values() if step.address == f"{one}/{step.node}"]
        nodes += [step.node for step in sides[1].values() if step.address == f"{other}/{step.node}" and step.node not in nodes]
        for node in nodes:
            pair = (sides[0].get(f"{one}/{node}"), sides[1].get(f"{other}/{node}"))
            parts.append(_node(left, right, node, *pair))
    return {
        "left": f"{left.folder}/{left_round}".rstrip("/"),
        "right": f"{right.folder}/{right_round}".rstrip("/"),
        "settings": _settings(left, right, left_round, right_round),
        "nodes": parts,
    }


def _common(left: Asked, right: Asked) -> list[tuple[str, str]]:
    others = [name for name, _, _ in sections(right.recipe)]
    return [(name, name) for name, _, _ in sections(left.recipe) if name in others]


def _settings(left: Asked, right: Asked, left_round: str, right_round: str) -> list[str]:
    """Settings that differ: of the recipes, or of the nodes as they stand in the two rounds."""
    if not left_round:
        before, after = (each.recipe.model_dump(mode="json", exclude={"name"}) for each in (left, right))
        return difference(before, after)
    before, after = (
        {name: (at_round(nodes, number) if number else nodes) for name, number, nodes in sections(filled(each.recipe))}[round]
        for each, round in ((left, left_round), (right, right_round))
    )
    return difference(before, after)


def _node(left: Asked, right: Asked, node: str, one: Step | None, other: Step | None) -> dict[str, Any]:
    made = [_read(asked, step) for asked, step in ((left, one), (right, other))]
    entry: dict[str, Any] = {
        "node": node,
        "left": one.address if one else None,
        "right": other.address if other else None,
        "there": [each is not None for each in made],
        "same": bool(made[0] and made[1] and made[0].manifest.digest == made[1].manifest.digest),
        "facts": [],
        "pairs": None,
    }
    if made[0] and made[1] and not entry["same"]:
        before, after = (dict(facts.leaves(each.manifest.facts)) for each in (made[0], made[1]))
        names = list(dict.fromkeys([*before, *after]))
        entry["facts"] = [
            {"fact": name, "left": before.get(name), "right": after.get(name)} for name in names if before.get(name) != after.get(name)
        ]
        dropped = any(each.manifest.dropped for each in made if each)
        if one and other and one.makes == other.makes == "pairs" and not dropped:
            entry["pairs"] = pairs(made[0].path, made[1].path)
    return entry


def _read(asked: Asked, step: Step | None) -> artifact.Artifact | None:
    return artifact.read(step.folder(asked.folder)) if step else None


def pairs(left: Path, right: Path) -> dict[str, int]:
    """Prompts by what became of their pairs: added, dropped, flipped (a chosen text is now rejected), other texts, same."""
    before, after = _by_prompt(left), _by_prompt(right)
    counts = {"added": len(after.keys() - before.keys()), "dropped": len(before.keys() - after.keys())}
    counts |= {"flipped": 0, "changed": 0, "same": 0}
    for prompt in before.keys() & after.keys():
        old, new = before[prompt], after[prompt]
        if old == new:
            counts["same"] += 1
        elif {(rejected, chosen) for chosen, rejected in old} & new:
            counts["flipped"] += 1
        else:
            counts["changed"] += 1
    return counts


def _by_prompt(folder: Path) -> dict[str, set[tuple[str, str]]]:
    """Prompt id -> digests of its (chosen, rejected) texts: a digest each, so that long texts do not fill the memory."""
    found: dict[str, set[tuple[str, str]]] = {}
    for prompt, chosen, rejected in _texts(folder):
        found.setdefault(prompt, set()).add((chosen, rejected))
    return found


def _texts(folder: Path) -> Iterator[tuple[str, str, str]]:
    for part in rows.stream(folder, ["prompt_id", "chosen", "rejected"]):
        for row in part.to_pylist():
            yield row["prompt_id"], artifact.hash_of(row["chosen"])[:16], artifact.hash_of(row["rejected"])[:16]


def render(data: dict[str, Any]) -> RenderableType:
    """Settings first, then the nodes that differ, then how many are the same."""
    parts: list[RenderableType] = [screen.heading(f"{data['left']} -> {data['right']}"), Text()]
    if data["settings"]:
        parts += [Text("settings", style="bold"), *(Text(f"  {screen.safe(change)}") for change in data["settings"]), Text()]
    else:
        parts += [Text("The settings are the same."), Text()]
    for each in data["nodes"]:
        where = each["left"] or each["right"]
        if each["left"] and each["right"] and each["left"] != each["right"]:
            where = f"{each['left']} -> {each['right']}"
        if each["there"] != [True, True]:
            side = "neither" if not any(each["there"]) else "only the right one" if each["there"][1] else "only the left one"
            parts += [Text.assemble((where, "bold"), f"  {side} has it"), Text()]
        elif not each["same"]:
            parts += [_facts(where, each), Text()]
    same = [each["left"] or each["right"] for each in data["nodes"] if each["same"]]
    return Group(*parts, Text(f"The same, byte for byte: {', '.join(same) or 'nothing'}", style="dim"))


def _facts(where: str, each: dict[str, Any]) -> RenderableType:
    lines = [[row["fact"], _cell(row["left"]), _cell(row["right"]), _change(row["left"], row["right"])] for row in each["facts"]]
    body: list[RenderableType] = [screen.table([(where, "left"), ("left", "right"), ("right", "right"), ("change", "right")], lines)]
    if not lines:
        body = [Text.assemble((where, "bold"), "  other bytes, the same facts")]
    if each["pairs"]:
        body.append(Text("  prompts: " + ", ".join(f"{count:,} {name}" for name, count in each["pairs"].items())))
    return Group(*body)


def _cell(value: Any) -> str:
    return screen.shorten(screen.number(value), 24)


def _change(left: Any, right: Any) -> str:
    if isinstance(left, bool) or not isinstance(left, int | float) or not isinstance(right, int | float):
        return ""
    change = screen.number(right - left)
    return change if change.startswith("-") else f"+{change}"
