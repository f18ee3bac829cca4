"""One training, complete: what is trained on what, how, and where it is left. Knows no machine."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from models import Model
from pipeline.plugin import Choice, Settings


class Optimisation(Settings):
    """The settings of training that change its result, under their Hugging Face names."""

    learning_rate: float = Field(1e-6, gt=0)
    """Peak learning rate."""
    num_train_epochs: int = Field(1, ge=1)
    """Passes over the rows."""
    schedule_total_epochs: int | None = None
    """Length that the schedule is laid out for, if it is not `num_train_epochs` (SPPO keeps epoch 1 of 18)."""
    lr_scheduler_type: str = Field("linear", pattern="^(linear|cosine|constant)$")
    """Shape of the schedule after warm-up."""
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of the schedule spent on linear warm-up."""
    batch_size: int = Field(64, ge=1)
    """Units (pairs or rows) per optimizer step, over all ranks and micro-batches."""
    max_length: int = Field(2048, ge=2)
    """Tokens of prompt and response together; a longer response is cut, and counted."""
    optim: str = Field("adamw", pattern="^(adamw|rmsprop)$")
    """Optimizer."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled for adamw."""
    adam_beta1: float = 0.9
    """AdamW's first decay."""
    adam_beta2: float = 0.999
    """AdamW's second decay."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this global norm."""


@dataclass(frozen=True)
class ExtraResponses:
    """Further responses, one for each unit, found by the id of the row or of its prompt."""

    rows: Path
    """Artifact of table `candidates`, of which each row's first response is taken."""
    reference: Path | None
    """Artifact of table `logprobs` for the same rows."""


@dataclass(frozen=True)
class Job:
    """One training, complete: what, from where, to where."""

    rows: Path
    """Artifact of table `pairs`, `candidates` or `judged`."""
    table: str
    reference: Path | None
    """Artifact of table `logprobs` for the same rows."""
    model: Model
    """What training starts from."""
    out: Path
    work: Path
    objective: Choice
    optimisation: Optimisation
    seed: int
    history: tuple[Path, ...] = ()
    """Artifacts of table `logprobs` for the same rows under earlier policies, the latest first."""
    extra: tuple[ExtraResponses, ...] = ()
    reference_model: Model | None = None
    """A reference that is asked during training."""
    labels: Path | None = None
    """Folder of a finished training whose final pair labels this one goes on with."""
    optimizer: Path | None = None
    """Folder of a finished training whose optimizer state this one goes on with."""
    keep_optimizer: bool = False
    """Leave the optimizer state beside the model."""
