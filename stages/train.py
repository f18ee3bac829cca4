"""Trains a model on pairs or demonstrations with an objective, on whatever trainer the profile names.

The reference's log-probabilities are read from a `logprobs` node over the same rows; no reference model is loaded.
What the objective computes is its own affair, and where that ran is the profile's.
"""

from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
from pydantic import model_validator

import objectives
from pipeline import rows
from pipeline.artifact import Artifact, Facts
from pipeline.errors import Refusal
from pipeline.plugin import Choice, Picks, Reads
from pipeline.tools import Tools
from trainers import Job, Optimisation

VERSION = 1
MAKES = "model"


class Config(Optimisation):
    model: Annotated[str, Reads("model")]
    """What training starts from."""
    rows: Annotated[str, Reads("pairs", "candidates")]
    """What is trained on: pairs, or demonstrations (every response of every row)."""
    reference: Annotated[str | None, Reads("logprobs")] = None
    """Log-probabilities of the same rows under the policy that the objective regularises towards."""
    objective: Annotated[Choice, Picks("objectives")]
    """What is minimised."""

    @model_validator(mode="after")
    def _reference_where_needed(self) -> "Config":
        needed = "reference" in objectives.needs(self.objective)
        if needed and self.reference is None:
            raise ValueError(
                f"reference: objective '{self.objective.kind}' needs the reference's log-probabilities; "
                f"add a node {{stage: logprobs, model: {self.model}, rows: {self.rows}}} and name it here"
            )
        if self.reference is not None and not needed:
            raise ValueError(f"reference: objective '{self.objective.kind}' reads none; leave the field out")
        if (self.schedule_total_epochs or self.num_train_epochs) < self.num_train_epochs:
            raise ValueError(
                f"schedule_total_epochs: {self.schedule_total_epochs} is less than num_train_epochs {self.num_train_epochs}, "
                "so the learning rate would be 0 before the end; raise it, or leave it out"
            )
        return self


def uses(config: Config) -> str:
    """The profile's trainer."""
    return "trainer"


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """Tokens are at most these: both responses of every pair at max_length, in every epoch."""
    count = inputs["rows"]
    responses = 2 if "pairs" in objectives.needs(config.objective) else 1
    tokens = None if count is None else count * responses * config.max_length * config.num_train_epochs
    return {"rows": count, "tokens": tokens}


def run(config: Config, inputs: dict[str, tuple[Artifact, ...]], out: Path, tools: Tools) -> Facts:
    """Facts are the trainer's: counts of rows, steps and tokens, and the first and last step's loss and terms."""
    source = inputs["rows"][0].path
    if not rows.count(source):
        raise Refusal(f"{tools.address}: {source} has no rows to train on; look at the step that made it")
    reference = inputs["reference"][0].path if config.reference is not None else None
    job = Job(
        rows=source,
        table="pairs" if "chosen" in pq.read_schema(rows.files(source)[0]).names else "candidates",
        reference=reference,
        model=tools.model("model"),
        out=out,
        work=tools.work,
        objective=config.objective,
        optimisation=Optimisation(**{name: getattr(config, name) for name in Optimisation.model_fields}),
        seed=tools.seed,
    )
    return tools.profile.trainer.module.train(tools.profile.trainer.config, job, tools)
