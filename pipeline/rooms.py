"""Our rooms are found before a user's modules of the same names: a `models.py` beside a recipe must not stand in for `models/`.

This file imports the standard library alone, because it is the first to be imported.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

HOME = Path(__file__).parent.parent
ROOMS = (
    "pipeline", "stages", "judges", "objectives", "rules", "sources", "engines", "trainers", "models", "training", "metrics", "reporters",
)  # fmt: skip


class _Ours:
    """Finds the rooms in HOME, wherever else a module of their name may be."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(HOME)]) if path is None and name in ROOMS else None


def first() -> None:
    """Have the rooms found first in this process. Raises ImportError for one that is taken already."""
    for name in ROOMS:
        places = list(getattr(sys.modules.get(name), "__path__", None) or [getattr(sys.modules.get(name), "__file__", None)])
        if name in sys.modules and str(HOME / name) not in places:
            raise ImportError(f"{places[0]}: was imported as '{name}', a name that rematch needs; rename it, or import pipeline before it")
    if _Ours not in sys.meta_path:
        sys.meta_path.insert(0, _Ours)


def path() -> str:
    """The import path of processes that we start, for PYTHONPATH: this process's own, with HOME first where `pipeline` would be another."""
    entries = [entry or str(Path.cwd()) for entry in sys.path]
    found = PathFinder.find_spec("pipeline", entries)
    ours = found is not None and found.origin == str(HOME / "pipeline" / "__init__.py")
    return os.pathsep.join(entries if ours else [str(HOME), *entries])
