"""SPO, Self-supervised Preference Optimization with preference degrees: arXiv:2409.17791; its repository holds no code.

DPO, and a classifier that has to tell how much was deleted from a response, from the policy's last hidden state:

    L = -log sig(beta d) + weight CE(logits, degree)

The extra response of a pair is one of its responses with some of its key phrases deleted (degree 0: none); the head is trained
along and thrown away. Units: nats; ln 2 + weight ln K before the first step with a head of zeros. Defaults: beta 0.1, weight 0.1.
Unverified: the abstract alone could be read. Which phrases, how many degrees, a head for each side, and the weight are guesses.
Other SPOs: the minimaximalist one is a reward for `grpo`.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "extra", "degrees"})
EXTRAS = 1
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    weight: float = Field(0.1, ge=0)
    """Weight of the classification."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    import torch

    from objectives import _kernels

    assert batch.degree_logits_UK is not None and batch.degree_U is not None, "the objective declared that it needs degrees"
    logits_UK = batch.degree_logits_UK
    degree_P = torch.nn.functional.cross_entropy(logits_UK, batch.degree_U, reduction="none")
    found = _kernels.dpo_plus(batch, config.beta, config.weight * degree_P, "degree")
    right_P = (logits_UK.argmax(-1) == batch.degree_U).to(degree_P.dtype)
    return Loss(found.per_unit, {**found.terms, "degree_accuracy": right_P})
