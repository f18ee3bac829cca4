"""Metrics for MLflow: one of its runs for each run, with the round as the step. Source: the MLflow client's docs.

`mlflow-skinny` is enough. Credentials come from MLflow's own environment variables.
"""

import re
import time
from collections.abc import Sequence
from typing import Any

from pipeline.errors import Refusal
from pipeline.measured import Row
from pipeline.plugin import Settings
from reporters import need

VERSION = 1
BATCH = 1000
"""Metrics that its server takes at once."""


class Config(Settings):
    tracking_uri: str | None = None
    """Its server, or `sqlite:///FILE`; none: what MLFLOW_TRACKING_URI says."""
    experiment: str = "rematch"
    """Its experiment, made if it is not there."""


def check(config: Config) -> None:
    """Needs the `mlflow` package, or `mlflow-skinny`."""
    need("mlflow", "mlflow-skinny")


def report(config: Config, run_name: str, rows: Sequence[Row]) -> None:
    """Log the rows to the run of this name, which is made if it is not there."""
    from mlflow.entities import Metric  # pyright: ignore[reportMissingImports] - installed where a profile asks for it
    from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    now = int(time.time() * 1000)
    metrics = [Metric(_allowed(f"{row.node}/{row.metric}"), row.value, now, row.round) for row in rows]
    try:
        client = MlflowClient(tracking_uri=config.tracking_uri)
        run_id = _run(client, config.experiment, run_name)
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        client.set_terminated(run_id)
    except (MlflowException, OSError) as error:
        raise Refusal(f"mlflow: {error}; check tracking_uri, and that its server runs") from error


def _run(client: Any, experiment: str, name: str) -> str:
    """The id of the run of this name."""
    known = client.get_experiment_by_name(experiment)
    folder = known.experiment_id if known is not None else client.create_experiment(experiment)
    quote = '"' if "'" in name else "'"  # its filters know no escapes
    found = client.search_runs([folder], filter_string=f"attributes.run_name = {quote}{name}{quote}", max_results=1)
    return found[0].info.run_id if found else client.create_run(folder, run_name=name).info.run_id


def _allowed(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)
