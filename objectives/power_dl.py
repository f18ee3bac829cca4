"""POWER-DL, POWER with dynamic labels: arXiv:2412.09544.

With C, R the summed log-probabilities of the chosen and the rejected response, |w|, |l| their tokens, and no reference, z is POWER's:

    z = beta (C/|w| - R/|l| + 1/|w| - 1/|l|)
    l <- (1 - gamma) l + gamma sig(z)                                              without gradient; l is 1 at first
    L = -[l log sig(z) + (1 - l) log sig(-z)] - eta beta C/|w|

The label moves each time that the pair is visited, before the loss is taken: a pair whose margin does not grow comes to say
nothing. With gamma 0 and labels of 1 this is POWER. The labels outlive the round with the pairs.
Units: nats. Defaults: beta 2, eta 0.001, gamma 0.1. Unverified: all of it; neither the paper's text nor code could be read, so
the equations are derived from its objective, and the defaults are a guess.
"""

from pydantic import Field

from objectives import Batch, Loss, power

VERSION = 1
NEEDS = frozenset({"pairs"})
UNIT = "pair"


class Config(power.Config):
    gamma: float = Field(0.1, ge=0, le=1)
    """How far a label moves towards the policy's own opinion at each visit."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,) and the pairs' new labels; the logged values have no reference and are means over tokens."""
    import torch

    from objectives import _kernels

    assert batch.pair_label_P is not None, "a batch of pairs has labels"
    z_P, chosen_P, rejected_P = power.scores(config, batch)
    label_P = (1 - config.gamma) * batch.pair_label_P + config.gamma * torch.sigmoid(z_P.detach())
    per_pair_P = _kernels.logistic(z_P, label_P) - config.eta * config.beta * chosen_P
    terms = {**_kernels.pair_terms(chosen_P, rejected_P), "label": label_P}
    return Loss(_kernels.weighted(batch, per_pair_P), terms, label_P=label_P)
