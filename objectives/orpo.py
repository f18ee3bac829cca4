"""ORPO, Odds Ratio Preference Optimization: arXiv:2403.07691, equations 6 and 7; TRL 1.16.0, experimental/orpo.

With a_w, a_l the mean log-probabilities of the tokens of the chosen and the rejected response, no reference, and
odds(a) = exp(a) / (1 - exp(a)):

    L = NLL(chosen) - beta log sig(log odds(a_w) - log odds(a_l))

It needs no supervised stage before it. Units: nats. Defaults: beta 0.1 (the paper's lambda), the NLL's mean over all chosen
tokens. TRL's NLL covers the prompt too; this covers responses alone. Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from objectives._likelihood import Reduction
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, ge=0)
    """Weight of the odds ratio (the paper's lambda)."""
    nll_weight: float = Field(1.0, ge=0)
    """Weight of the chosen response's negative log-likelihood."""
    nll_reduction: Reduction = "token_mean"
    """Mean over all chosen tokens, mean over each response's, or their sum."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the log-ratios logged are mean log-probabilities."""
    from objectives import _kernels, _likelihood

    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch, mean=True, reference=False))
    per_pair_P = config.beta * _kernels.logistic(_kernels.log_odds_ratio(chosen_P, rejected_P))
    return _likelihood.beside(batch, per_pair_P, _kernels.pair_terms(chosen_P, rejected_P), config.nll_weight, config.nll_reduction)
