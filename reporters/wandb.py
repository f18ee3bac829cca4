"""Metrics for Weights & Biases: one of its runs for each run, with the round as the x axis. Source: the wandb client's docs.

The key comes from the environment (WANDB_API_KEY) or from `wandb login`.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import Refusal
from pipeline.measured import Row
from pipeline.plugin import Settings
from reporters import need

VERSION = 1


class Config(Settings):
    project: str = "rematch"
    """Its project."""
    entity: str | None = None
    """Its team or user; none: the default of the account."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes to `folder` alone; `wandb sync` sends it later."""
    folder: str = "."
    """Where its own `wandb` folder goes."""


def check(config: Config) -> None:
    """Needs the `wandb` package."""
    need("wandb", "wandb")


def report(config: Config, run_name: str, rows: Sequence[Row]) -> None:
    """Resume the run of this name, log its rounds, and finish it again."""
    wandb: Any = import_module("wandb")  # by its name alone: a type checker takes `import wandb` for this very file

    by_round: dict[int, dict[str, float]] = {}
    for row in rows:
        by_round.setdefault(row.round, {})[f"{row.node}/{row.metric}"] = row.value
    folder = Path(config.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=run_name,
            id=run_name,
            resume="allow",
            mode=config.mode,
            dir=str(folder),
            settings=wandb.Settings(silent=True),
        )
        try:
            run.define_metric("round")
            run.define_metric("*", step_metric="round")
            for number in sorted(by_round):
                run.log({"round": number, **by_round[number]})
        finally:
            run.finish()
    except (wandb.Error, OSError) as error:
        raise Refusal(f"wandb: {error}; check the key and the network, or set mode: offline") from error
