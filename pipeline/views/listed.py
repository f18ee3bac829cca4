"""The plugins that are here: name, version, what each says of itself, and its file."""

import inspect
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline import plugin
from pipeline.errors import Refusal
from pipeline.views import screen


def collect(folder: str = "") -> list[dict[str, Any]]:
    """Every plugin, or those of one folder."""
    short = {each.rpartition(".")[2]: each for each in plugin.FOLDERS}
    if folder and folder.strip("/") not in short:
        raise Refusal(f"plugins {folder}: {plugin.unknown('folder of plugins', folder, list(short))}")
    found: list[dict[str, Any]] = []
    for name in [short[folder.strip("/")]] if folder else plugin.FOLDERS:
        for kind in plugin.names(name):
            module = plugin.load(name, kind)
            about = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0]
            found.append(
                {
                    "folder": name.rpartition(".")[2],
                    "kind": kind,
                    "version": module.VERSION,
                    "about": about.partition("\n")[0],
                    "settings": list(plugin.fields(module.Config)),
                    "file": _short(Path(inspect.getfile(module))),
                }
            )
    return found


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def render(data: list[dict[str, Any]]) -> RenderableType:
    """A table for each folder."""
    parts: list[RenderableType] = []
    width = max((len(each["kind"]) for each in data), default=0)
    for folder in dict.fromkeys(each["folder"] for each in data):
        rows = [[each["kind"].ljust(width), Text(each["about"])] for each in data if each["folder"] == folder]
        parts += [screen.table([(folder, "left"), ("", "wrap")], rows), Text()]
    return Group(*parts, Text("A new one is a new file in its folder; `rematch schema --markdown` lists all their settings.", style="dim"))
