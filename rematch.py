"""The entry of the `rematch` command: a module of a name that nobody else uses, so that it is found whatever is on the path.

It loads our `pipeline` by its place, because a user's `pipeline.py` may stand before it; `pipeline` then sees to the other rooms.
"""

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Run the command line."""
    home = Path(__file__).resolve().parent / "pipeline"
    spec = importlib.util.spec_from_file_location("pipeline", home / "__init__.py", submodule_search_locations=[str(home)])
    assert spec is not None and spec.loader is not None
    sys.modules["pipeline"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from pipeline.cli import main as run

    run()
