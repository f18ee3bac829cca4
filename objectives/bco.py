"""BCO, Binary Classifier Optimization, of pairs: arXiv:2404.04656; TRL's `bco_pair`.

With u, v the summed log-ratios of the chosen and the rejected response against the reference:

    L = -log sig(beta u - delta) - log sig(-(beta v - delta))

delta is 0 (`shift: none`, TRL 1.16) or the running mean of all implicit rewards beta u and beta v so far (`running_mean`,
the paper and TRL up to 0.28), this step's among them, without gradient. The mean is over all rewards of all steps, each
counted once; it is part of the training state.
Units: nats; 2 ln 2 before the first step. Default: beta 0.01, shifted. Not built: the weights by a classifier of prompts
(UDM) for bad responses from other prompts than the good ones. Unverified: nothing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"
STATE = {"mean": 0.0, "count": 0.0}


class Config(Settings):
    beta: float = Field(0.01, gt=0)
    """Strength of the pull towards the reference."""
    shift: str = Field("running_mean", pattern="^(none|running_mean)$")
    """What rewards are measured from."""


def gather(config: Config, batch: Batch) -> "dict[str, Tensor]":
    """The implicit reward, beta times the log-ratio, of each pair's two responses, (P,) each."""
    from objectives import _kernels

    chosen_P, rejected_P = _kernels.of_pairs(batch, config.beta * _kernels.log_ratios(batch).detach())
    return {"chosen": chosen_P, "rejected": rejected_P}


def update(config: Config, state: Mapping[str, float], whole: "Mapping[str, Tensor]") -> dict[str, float]:
    """The mean of all rewards so far, and their number."""
    more = sum(len(rewards) for rewards in whole.values())
    total = sum(rewards.double().sum().item() for rewards in whole.values())
    count = state["count"] + more
    return {"mean": state["mean"] + (total - more * state["mean"]) / max(count, 1.0), "count": count}


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    delta = batch.state["mean"] if config.shift == "running_mean" else 0.0
    per_pair_P = _kernels.logistic(config.beta * chosen_P - delta) + _kernels.logistic(delta - config.beta * rejected_P)
    return Loss(_kernels.weighted(batch, per_pair_P), _kernels.pair_terms(chosen_P, rejected_P))
