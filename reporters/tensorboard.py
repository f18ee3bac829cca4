"""Scalars for TensorBoard, in a folder a run: `tensorboard --logdir FOLDER` shows them. Source: TensorBoard's summary API."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import Refusal
from pipeline.measured import Row
from pipeline.plugin import Settings
from reporters import need

VERSION = 1


class Config(Settings):
    folder: str = "tensorboard"
    """Where the event files go, in a folder named after the run."""


def check(config: Config) -> None:
    """Needs the `tensorboard` package, and neither torch nor TensorFlow."""
    need("tensorboard", "tensorboard")


def report(config: Config, run_name: str, rows: Sequence[Row]) -> None:
    """One more event file for the round."""
    from tensorboard.summary import Writer  # pyright: ignore[reportMissingImports] - installed where a profile asks for it

    folder = Path(config.folder) / run_name
    try:
        writer = Writer(str(folder))
        for row in rows:
            writer.add_scalar(f"{row.node}/{row.metric}", row.value, step=row.round)
        writer.close()
    except OSError as error:
        raise Refusal(f"{folder}: cannot be written ({error.strerror}); check its permissions, or name another folder") from error
