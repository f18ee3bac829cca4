"""The `rematch` command: what can be typed. How it ends is in `endings`, what it prints in `views`.

Only typer is imported here; each command imports what it needs, so that help is instant.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.endings import Interrupted, bug, ended, listen
from pipeline.errors import Refusal

app = typer.Typer(
    name="rematch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Iterative self-play preference optimisation: rounds that resume, and keep their data.\n\n"
    "Start with `rematch run demo`, then `rematch show runs/demo`. Exit codes: 0 fine, 1 a bug, 2 something that you can mend.",
)

_RECIPE = "The name of a shipped recipe, a YAML file, or a run folder (its recorded recipe and profile)."
_SET = "Change a setting, such as round.policy.learning_rate=1.0e-4 or seed=1; `profile.` changes the profile."
_AXIS = "Values of a setting, with commas between them; one value holds for all runs. `[1, 2]` is one value, `'a,b'` too."
_FROM = "Build this round or step again, such as round-02 or round-02/pairs, and all that reads it. What is replaced moves to the attic."
_FOLDERS = "stages, judges, objectives, engines, trainers, rules, sources, reporters or executors."

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run: its folder, or the name of one in ./runs.")]
Inside = Annotated[str, typer.Argument(metavar="RUN", help="A run, or a path into one, such as runs/demo/round-02/pairs.")]
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help=_RECIPE)]
Profile = Annotated[
    str | None, typer.Option("--profile", "-p", metavar="NAME|FILE", help="Where to run. Default: laptop, or what the run recorded.")
]
Sets = Annotated[list[str], typer.Option("--set", "-s", metavar="A.B=C", help=_SET)]
Rounds = Annotated[int | None, typer.Option("--rounds", metavar="N", min=0, help="As --set rounds=N.")]
From = Annotated[str | None, typer.Option("--from", metavar="WHERE", help=_FROM)]
Name = Annotated[str | None, typer.Option("--run", metavar="NAME", help="Name of the run. Default: the recipe's.")]
Runs = Annotated[Path | None, typer.Option("--runs", metavar="DIR", help="Folder of the runs. Default: runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]

# No library that a run loads may report home, or draw bars of its own between ours.
_QUIET = ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")


def main() -> None:
    """The entry point of the `rematch` command."""
    try:
        sys.exit(call(sys.argv[1:]))
    finally:
        sys.excepthook = bug  # only now, because typer puts one of its own there


def call(arguments: list[str]) -> int:
    """Run one command line and return its exit code; a bug is raised."""
    for name in _QUIET:
        os.environ.setdefault(name, "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return ended(lambda: app(arguments, prog_name="rematch"))


def _version(wanted: bool) -> None:
    if wanted:
        from pipeline.build import commit, versions

        typer.echo(", ".join(f"{name} {version}" for name, version in {**versions(), "commit": commit() or "none"}.items()))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions, for a report.")] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: Recipe, profile: Profile = None, sets: Sets = [], rounds: Rounds = None, start_at: From = None,  # noqa: B006
    name: Name = None, runs: Runs = None, json: Json = False,
) -> None:  # fmt: skip
    """Build what is missing of a recipe's rounds. Stop it when you like: the same command goes on.

    Example: `rematch run demo --rounds 1`, then `rematch run runs/demo --rounds 3`
    """
    from pipeline import request
    from pipeline.recipe import RECIPE
    from pipeline.views import progress, screen
    from pipeline.views import rounds as view

    asked = request.asked(recipe, profile=profile, changes=sets, rounds=rounds, name=name, runs=runs)
    out = screen.screen(stderr=json)
    did = progress.Did()
    try:
        progress.build(asked, out, listen, did, start_at)
    except KeyboardInterrupt:
        raise Interrupted(f"rematch run {asked.folder}" if (asked.folder / RECIPE).is_file() else "") from None
    data = {**view.collect(asked), "built": did.built, "linked": did.linked}
    screen.report(data, json, lambda: view.ended(data, out.width))


@app.command()
def build(
    run: Run, step: Annotated[str, typer.Argument(metavar="STEP", help="Which step, such as round-02/pairs.")],
    profile: Profile = None, json: Json = False,
) -> None:  # fmt: skip
    """Build one step of a run, whose inputs are done. Several steps of a run may be built at once, each by a command of its own.

    Example: `rematch build runs/demo round-02/pairs`
    """
    from pipeline import request
    from pipeline.views import change, progress, screen

    asked = request.recorded(request.find_run(run), profile)
    section, node = request.section_of(step, asked.recipe)
    if not node:
        raise Refusal(f"{step}: is a whole round; name one step of it, such as {section}/{next(iter(asked.recipe.round), 'pairs')}")
    address = f"{section}/{node}"
    did = progress.Did()
    try:
        progress.build_step(asked, address, screen.screen(stderr=json), listen, did)
    except KeyboardInterrupt:
        raise Interrupted(f"rematch build {asked.folder} {address}") from None
    data = {"run": str(asked.folder), "step": address, "built": did.built, "linked": did.linked}
    screen.report(data, json, lambda: change.render_built(data))


@app.command()
def sweep(
    recipe: Recipe, profile: Profile = None,
    sets: Annotated[list[str], typer.Option("--set", "-s", metavar="A.B=X,Y", help=_AXIS)] = [],  # noqa: B006
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="0,1,2", help="As --set seed=0,1,2.")] = None,
    rounds: Rounds = None, runs: Runs = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Folder of the sweep's runs. Default: RECIPE-sweep.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Run a recipe with every combination of some settings, beside each other, so that what is equal is built once.

    Stop it when you like: the same command goes on. Exit code 2 if one of the runs failed; the others are built all the same.

    Example: `rematch sweep demo --set round.policy.objective.beta=0.05,0.1,0.2 --seeds 0,1 --rounds 1`
    """
    from pipeline import request
    from pipeline.views import screen
    from pipeline.views import sweep as view

    folder, found = request.swept(recipe, profile=profile, changes=sets, seeds=seeds, rounds=rounds, runs=runs, name=name)
    try:
        data = view.build(found, folder, screen.screen(stderr=json), listen)
    except KeyboardInterrupt:
        raise Interrupted(shlex.join(["rematch", *sys.argv[1:]])) from None
    screen.report(data, json, lambda: view.render(data))
    if any(each["error"] for each in data["runs"]):
        raise typer.Exit(2)


@app.command()
def plan(
    recipe: Recipe, profile: Profile = None, sets: Sets = [], rounds: Rounds = None, start_at: From = None,  # noqa: B006
    name: Name = None, runs: Runs = None,
    graph: Annotated[bool, typer.Option("--graph", help="Show nodes and arrows instead of a table.")] = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print the recipe whole instead, as a run records it.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Show the steps of a recipe, what exists of them, and an estimate of the rest. Runs nothing.

    Example: `rematch plan sppo --profile 8-gpu`, or `rematch plan runs/demo --set round.policy.learning_rate=1.0e-4`
    """
    from pipeline import request
    from pipeline.views import planned, screen

    asked = request.asked(recipe, profile=profile, changes=sets, rounds=rounds, name=name, runs=runs)
    data = planned.collect(asked, start_at)
    if yaml:
        sys.stdout.write(planned.whole(asked.recipe))
        return
    screen.report(data, json, lambda: planned.graph(data) if graph else planned.render(data, screen.screen().width))


@app.command()
def status(run: Run, json: Json = False) -> None:
    """Show what a run has, by node and round, and who is building it.

    Example: `rematch status runs/demo`
    """
    from pipeline import request
    from pipeline.views import screen
    from pipeline.views import status as view

    asked = request.recorded(request.find_run(run))
    data = view.collect(asked)
    screen.report(data, json, lambda: view.render(data, asked, screen.screen().width))


@app.command()
def show(
    run: Inside,
    where: Annotated[str, typer.Argument(metavar="WHERE", help="A round (round-02) or an artifact (round-02/pairs).")] = "",
    count: Annotated[int, typer.Option("--rows", "-n", metavar="N", min=0, help="How many rows.")] = 3,
    at: Annotated[str | None, typer.Option("--id", metavar="ID", help="The rows whose id, or prompt's id, starts so.")] = None,
    best: Annotated[int | None, typer.Option("--best", metavar="N", min=1, help="The rows with the largest score gap.")] = None,
    worst: Annotated[int | None, typer.Option("--worst", metavar="N", min=1, help="The rows with the smallest score gap.")] = None,
    whole: Annotated[bool, typer.Option("--all", help="List every file and version.")] = False,
    json: Json = False,
) -> None:
    """Look inside: a run, a round, or an artifact with its rows.

    Example: `rematch show runs/demo round-02/pairs --best 3`
    """
    from pipeline import request
    from pipeline.views import rounds, screen
    from pipeline.views import show as view

    folder, inside = request.locate(run)
    asked = request.recorded(folder)
    address = "/".join(part for part in (inside, where.strip("/")) if part)
    width = screen.screen().width
    section, node = request.section_of(address, asked.recipe) if address else ("", "")
    if node:
        data = view.collect(asked, f"{section}/{node}", count=count, at=at, best=best, worst=worst)
        page = view.render(data, asked, whole=whole)
    else:
        data = rounds.collect(asked, section or None)
        page = rounds.render_round(data) if section else rounds.render(data, width)
    screen.report(data, json, lambda: page)


@app.command()
def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="A run, or a round of one, such as runs/demo/round-01.")],
    right: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    json: Json = False,
) -> None:
    """Show what differs between two runs, or two rounds: settings, facts, and whose pairs changed.

    Example: `rematch diff runs/demo/round-01 runs/demo/round-02`
    """
    from pipeline import request
    from pipeline.views import diff as view
    from pipeline.views import screen

    sides: list[tuple[request.Asked, str]] = []
    for text in (left, right):
        folder, inside = request.locate(text)
        asked = request.recorded(folder)
        section, node = request.section_of(inside, asked.recipe) if inside else ("", "")
        if node:
            raise Refusal(f"{text}: is one artifact; give two runs, or two rounds such as {folder}/{section}")
        sides.append((asked, section))
    if bool(sides[0][1]) != bool(sides[1][1]):
        raise Refusal(f"{left} and {right}: one is a run and the other a round; give two of a kind")
    data = view.collect(sides[0][0], sides[1][0], sides[0][1], sides[1][1])
    screen.report(data, json, lambda: view.render(data))


@app.command()
def fork(
    run: Run,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the new run (beside the old one), or a path.")],
    at: Annotated[str, typer.Option("--at", metavar="ROUND", help="The first round that changes, such as round-02.")],
    sets: Sets = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Make a new run that shares everything before a round; only what the change touches is built.

    Example: `rematch fork runs/demo demo-beta --at round-02 --set round.policy.objective.beta=0.5`
    """
    from pipeline import request
    from pipeline.views import change, screen

    data = change.fork(request.find_run(run), new, at, sets)
    screen.report(data, json, lambda: change.render_fork(data))


@app.command()
def verify(run: Run, json: Json = False) -> None:
    """Hash every file of a run again and compare it with its manifest. Exit code 2 if bytes have changed.

    Example: `rematch verify runs/demo`
    """
    from pipeline import request
    from pipeline.views import screen
    from pipeline.views import status as view

    asked = request.recorded(request.find_run(run))
    with screen.screen(stderr=True).status("hashing"):
        data = view.collect(asked, verify=True)
    screen.report(data, json, lambda: view.render_verified(data))
    if data["counts"].get("corrupt"):
        raise typer.Exit(2)


@app.command()
def retire(
    run: Run,
    where: Annotated[list[str], typer.Argument(metavar="WHERE...", help="Rounds or steps, such as round-02 or round-02/pairs.")],
    json: Json = False,
) -> None:
    """Move rounds or steps to the run's attic, so that the next run builds them again. Deletes nothing.

    Example: `rematch retire runs/demo round-03 round-02/report`
    """
    from pipeline import request
    from pipeline.views import change, screen

    data = change.retire(request.recorded(request.find_run(run)), where)
    screen.report(data, json, lambda: change.render_retired(data))


@app.command()
def plugins(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help=_FOLDERS)] = "",
    json: Json = False,
) -> None:
    """List the plugins: stages, judges, objectives and so on. A file in its folder is all that a plugin needs.

    Example: `rematch plugins judges`
    """
    from pipeline.views import listed, screen

    data = listed.collect(folder)
    screen.report(data, json, lambda: listed.render(data))


@app.command()
def schema(
    what: Annotated[str, typer.Argument(metavar="recipe|profile", help="Whose schema.")] = "recipe",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the recipe reference as Markdown instead.")] = False,
) -> None:
    """Print the JSON schema of recipes or profiles, for editors.

    Example: `rematch schema recipe > recipe.schema.json`
    """
    from pipeline.views import schema as view
    from pipeline.views import screen

    if what not in ("recipe", "profile"):
        raise Refusal(f"schema {what}: there is no such schema; say recipe or profile")
    if markdown:
        sys.stdout.write(view.reference_markdown())
    else:
        screen.emit(view.recipe_schema() if what == "recipe" else view.profile_schema())


@app.command()
def export(
    run: Inside,
    where: Annotated[str, typer.Argument(metavar="WHERE", help="An artifact, such as round-02/pairs.")] = "",
    to: Annotated[Path, typer.Option("--to", metavar="FILE.jsonl|FOLDER", help="A new file or folder; nothing is overwritten.")] = Path(),
    metrics: Annotated[Path | None, typer.Option("--metrics", metavar="FILE.parquet", help="Instead: all numbers of the run.")] = None,
    json: Json = False,
) -> None:
    """Copy a table out of a run: JSON lines, or a folder of Parquet that `datasets.load_dataset` reads.

    With --metrics, every number that the run's steps reported, one row each: round (0 is the start), node, metric, value.

    Example: `rematch export runs/demo round-02/pairs --to pairs.jsonl`, or `rematch export runs/demo --metrics metrics.parquet`
    """
    from pipeline import measured, request
    from pipeline.plan import plan
    from pipeline.views import export as view
    from pipeline.views import screen

    folder, inside = request.locate(run)
    asked = request.recorded(folder)
    if metrics is not None:
        if inside or where or to != Path():
            raise Refusal(f"--metrics {metrics}: holds the whole run; leave out the address and --to")
        count = measured.write(measured.rows(plan(asked.recipe, asked.profile), folder), metrics)
        data = {"from": str(folder), "to": str(metrics), "table": "metrics", "rows": count}
        screen.report(data, json, lambda: f"{count:,} numbers of {folder} to {metrics}")
        return
    section, node = request.section_of("/".join(part for part in (inside, where) if part), asked.recipe)
    if not node:
        raise Refusal(f"{run} {where}: names no artifact; give one, such as {section}/pairs")
    if to == Path():
        raise Refusal("--to: is missing; name a new FILE.jsonl or FOLDER")
    data = view.export(asked, f"{section}/{node}", to)
    screen.report(data, json, lambda: f"{data['rows']:,} rows of {data['table']} from {data['from']} to {data['to']}")


if __name__ == "__main__":
    main()
