"""The two commands that rearrange runs, fork and retire: what they are asked, done through pipeline.run, and told."""

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline import artifact
from pipeline import run as runner
from pipeline.errors import Refusal
from pipeline.plan import plan
from pipeline.request import Asked, recorded, section_of
from pipeline.views import screen


def fork(origin: Path, new: str, at: str, changes: list[str]) -> dict[str, Any]:
    """Fork a run at a round, and say what is shared and what is left to build."""
    asked = recorded(origin)
    section, node = section_of(at, asked.recipe)
    if node or section == "start":
        raise Refusal(f"--at {at}: a fork changes from a whole round on; give a round, such as round-02")
    for change in changes:
        if change.startswith("profile."):
            raise Refusal(f"--set {change}: a fork changes the recipe; give the profile's settings to `rematch run` afterwards")
    folder = Path(new) if "/" in new else origin.parent / new
    recipe, shared = runner.fork(origin, folder, at=int(section.removeprefix("round-")), changes=changes)
    missing = [step.address for step in plan(recipe, asked.profile) if step.address not in shared]
    return {"run": str(folder), "origin": str(origin), "at": section, "shared": shared, "to_build": missing}


def render_fork(data: dict[str, Any]) -> RenderableType:
    return Group(
        screen.heading(data["run"], f"forked from {data['origin']} at {data['at']}"),
        Text(),
        Text(f"shared ({len(data['shared'])} steps, by hard link)"),
        *screen.by_round(data["shared"]),
        Text(f"to be built ({len(data['to_build'])} steps)"),
        *screen.by_round(data["to_build"]),
        Text(),
        Text("To build it:"),
        screen.command(f"rematch run {data['run']}"),
    )


def retire(asked: Asked, where: list[str]) -> dict[str, Any]:
    """Move rounds and steps to the attic, under the run's lock."""
    addresses: list[str] = []
    for text in where:
        addresses += _addresses(asked, text.strip("/"))
    with runner.locked(asked.folder):
        leaning = [each for each in artifact.leaners(asked.folder, addresses) if each not in addresses]
        moved = runner.retire(asked.folder, list(dict.fromkeys(addresses)))
    return {"run": str(asked.folder), "moved": moved, "leaning": leaning, "attic": str(asked.folder / runner.ATTIC)}


def _addresses(asked: Asked, text: str) -> list[str]:
    """What is on disk under a round or step; a node that the recipe no longer has can be retired too."""
    first, _, node = text.partition("/")
    if not (node and (asked.folder / text).is_dir() and first.startswith(("round-", "start")) and ".." not in text):
        first, node = section_of(text, asked.recipe)
    if node:
        return [f"{first}/{node}"]
    names = sorted(path.name for path in (asked.folder / first).iterdir()) if (asked.folder / first).is_dir() else []
    # A draft is `.node.key`.
    return list(dict.fromkeys(f"{first}/{name.removeprefix('.').rpartition('.')[0] if name.startswith('.') else name}" for name in names))


def render_retired(data: dict[str, Any]) -> RenderableType:
    if not data["moved"]:
        return Text("Nothing was there to be moved.")
    return Group(
        Text(f"moved to {data['attic']}"),
        *screen.by_round(data["moved"]),
        *([Text(f"{', '.join(data['leaning'])} went along, leaning on what was named")] if data["leaning"] else []),
        Text("To build them again:"),
        screen.command(f"rematch run {data['run']}"),
    )


def render_built(data: dict[str, Any]) -> RenderableType:
    """What one build did."""
    if not data["built"] and not data["linked"]:
        return Text(f"{data['step']} is there already.")
    return Group(Text("To look at it:"), screen.command(f"rematch show {data['run']} {data['step']}"))
