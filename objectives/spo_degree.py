"""SPO, Self-supervised Preference Optimization with preference degrees: arXiv:2409.17791; its repository holds no code.

DPO, and for each side a classifier that has to tell, from the policy's last state, how much was deleted from the response:

    L = -log sig(beta d) + weight [CE(chosen's logits, degree) + CE(rejected's logits, degree)]

The extra responses of a pair are its chosen and its rejected one with some of their key phrases deleted (degree 0: none;
stage `delete_phrases`). The heads are trained along and thrown away. Units: nats. Defaults: beta 0.1, weight 0.1, 4 degrees.
Unverified: the abstract and a review alone could be read. Which phrases, how many degrees, one draw a step, and the weight
are guesses. Other SPOs: the minimaximalist one is a reward for `grpo`.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "extra", "degrees"})
EXTRAS = 2
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    weight: float = Field(0.1, ge=0)
    """Weight of each side's classification."""
    degrees: int = Field(4, ge=2)
    """How many degrees of deletion are told apart; that of the stage that deletes."""


def degrees(config: Config) -> int:
    """How many classes the heads have."""
    return config.degrees


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    import torch

    from objectives import _kernels

    assert batch.degree_logits_EUK is not None and batch.degree_EU is not None, "the objective declared that it needs degrees"
    logits_PKE = batch.degree_logits_EUK.permute(1, 2, 0)
    degree_PE = batch.degree_EU.T
    entropy_P = torch.nn.functional.cross_entropy(logits_PKE, degree_PE, reduction="none").sum(-1)
    found = _kernels.dpo_plus(batch, config.beta, config.weight * entropy_P, "degree")
    right_P = (logits_PKE.argmax(1) == degree_PE).to(entropy_P.dtype).mean(-1)
    return Loss(found.per_unit, {**found.terms, "degree_accuracy": right_P})
