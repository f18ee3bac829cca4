"""A sweep: each of its runs as it is built, and one table at the end, a line a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from pipeline.errors import Refusal
from pipeline.request import Asked
from pipeline.sweep import Point, spelled
from pipeline.views import progress, rounds, screen


def build(found: list[tuple[Point, Asked]], folder: Path, out: Console, listen: Callable[[], None]) -> dict[str, Any]:
    """Build the runs one after the other, and say what became of each; one that fails does not keep the others from theirs."""
    runs: list[dict[str, Any]] = []
    for at, (point, asked) in enumerate(found, start=1):
        out.print(screen.heading(f"{asked.folder}", f"run {at} of {len(found)}"))
        did, error = progress.Did(), None
        try:
            progress.build(asked, out, listen, did)
        except Refusal as refusal:
            error = str(refusal)
            out.print(Text(screen.safe(error), style="red"), soft_wrap=True)
        last = rounds.collect(asked)["rounds"][-1]
        runs.append(
            {
                "run": str(asked.folder),
                "settings": point.settings,
                "round": last["name"],
                "metrics": last["metrics"],
                "built": did.built,
                "linked": did.linked,
                "error": error,
            }
        )
    return {"folder": str(folder), "runs": runs}


def render(data: dict[str, Any]) -> RenderableType:
    """The table over runs; then what failed, and what to type next."""
    runs: list[dict[str, Any]] = data["runs"]
    paths = list(runs[0]["settings"])
    leaves = [path.rpartition(".")[2] for path in paths]
    headings = [path if leaves.count(leaf) > 1 else leaf for path, leaf in zip(paths, leaves, strict=True)]
    metrics = [name for name in ("pairs", "loss") if any(name in each["metrics"] for each in runs)]
    metrics += list(dict.fromkeys(name for each in runs for name in each["metrics"] if name.rpartition(".")[2] in ("accuracy", "win rate")))
    columns: list[tuple[str, str]] = [
        ("run", "left"),
        *((name, "right") for name in (*headings, *metrics, "built", "linked")),
        ("", "left"),
    ]
    rows = [
        [
            Path(each["run"]).name,
            *(spelled(each["settings"][path]) for path in paths),
            *(each["metrics"].get(name, "") for name in metrics),
            str(len(each["built"])),
            str(len(each["linked"])),
            "failed" if each["error"] else "",
        ]
        for each in runs
    ]
    failed = [Text(f"{each['run']}: {screen.safe(each['error'])}", style="red") for each in runs if each["error"]]
    head = screen.heading(data["folder"], f"{len(runs)} runs, {runs[0]['round']}")
    return Group(Text(), head, Text(), screen.table(columns, rows), *([Text(), *failed] if failed else []), *_look(runs))


def _look(runs: list[dict[str, Any]]) -> list[RenderableType]:
    whole = [each["run"] for each in runs if not each["error"]]
    if len(whole) < 2:
        return []
    return [Text(), Text("To compare two of them:"), screen.command(f"rematch diff {whole[0]} {whole[-1]}")]
