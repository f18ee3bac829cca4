"""UPO, Uncertainty-enhanced Preference Optimization: arXiv:2409.11212, equation 12, mended.

With d the summed log-ratios' margin as in dpo.py against the previous policy, and a the probability that a pair's label
is flipped, which an estimator's uncertainty gives:

    L = -(1 - a) log sig(beta d) - a log sig(-beta d) + lambda NLL(chosen)

`usable`: the pair's label is 1 - a. With B the estimator's mutual information in nats (BALD), a = min(1, B / ln 2) / 2 is
0 where it is certain and 1/2 where it knows nothing; (1 - B / ln 2)^mu is a weight for the pair.
`paper`: the pair's label is the P of equation 12 and a = 1 / (P + 1), as printed. P is at most 1, so a is at least 1/2:
this prefers the rejected response, and is here to show so. The released code has no a at all: it is plain DPO.
The NLL is printed with the sign that lowers the likelihood, and divided by |r|, here taken to be the length. Units: nats.
Defaults: beta 0.1 (the code), lambda 0. Unverified: what mu and |r| mean in the paper, and its lambda.
"""

from typing import Literal

from pydantic import Field

from objectives import Batch, Loss
from objectives._likelihood import Reduction
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    form: Literal["usable", "paper"] = "usable"
    """What the pair's label is: the probability that it is right, or the P of the printed equation, which favours the rejected."""
    nll_weight: float = Field(0.0, ge=0)
    """Weight of the chosen response's negative log-likelihood (lambda)."""
    nll_reduction: Reduction = "seq_mean"
    """Mean over all chosen tokens, mean over each response's, or their sum."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels, _likelihood

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch))
    label = _kernels.labels(batch, soft=True)
    if config.form == "paper":
        label = 1 - 1 / (label + 1)
    per_pair_P = _kernels.logistic(config.beta * (chosen_P - rejected_P), label)
    return _likelihood.beside(batch, per_pair_P, _kernels.pair_terms(chosen_P, rejected_P), config.nll_weight, config.nll_reduction)
