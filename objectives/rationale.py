"""Rationales beside preferences: arXiv:2407.14477; code reds-lab/preference-learning-with-rationales, trainers.py.

The extra response of a pair is an explanation z of why the chosen response is better, after a prompt that shows both; s is its
log-probability without a reference, summed, or the mean over its tokens:

    base dpo     -log sig(beta d) + R(z)                                                            RDPO
    base orpo    -beta log sig(log odds ratio of means) + R(z), and the mean of -log pi over chosen tokens    RORPO

    logsigmoid   R(z) = -log sig(gamma s)       the code: of slope gamma where gamma s is far below 0, gamma/2 near it
    nll          R(z) = -gamma s                the paper

Units: nats. Defaults: beta 0.1, gamma 0.1 (the code's settings; its README has 0.001), s summed; RORPO's code takes the mean.
The code always shows the chosen response first, which a prompt need not do. Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "extra"})
EXTRAS = 1
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference; with base orpo, weight of the odds ratio."""
    gamma: float = Field(0.1, ge=0)
    """Weight of the rationale."""
    base: str = Field("dpo", pattern="^(dpo|orpo)$")
    """The loss of the pair."""
    form: str = Field("logsigmoid", pattern="^(logsigmoid|nll)$")
    """How the rationale's log-probability enters."""
    length_average: bool = False
    """Take the rationale's mean log-probability over tokens; false: the sum."""


def needs(config: Config) -> frozenset[str]:
    """No reference beside ORPO."""
    return NEEDS if config.base == "dpo" else NEEDS - {"reference"}


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); RORPO's likelihood of the chosen response is per token."""
    from objectives import _kernels

    s_P = config.gamma * _kernels.extra_log_ratios(batch, mean=config.length_average, reference=False)
    rationale_P = _kernels.logistic(s_P) if config.form == "logsigmoid" else -s_P
    if config.base == "dpo":
        return _kernels.dpo_plus(batch, config.beta, rationale_P, "rationale")
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.log_ratios(batch, mean=True, reference=False))
    per_pair_P = config.beta * _kernels.logistic(_kernels.log_odds_ratio(chosen_P, rejected_P)) + rationale_P
    terms = {**_kernels.pair_terms(chosen_P, rejected_P), "rationale": rationale_P.detach()}
    return Loss(_kernels.weighted(batch, per_pair_P), terms, per_chosen_token_PT=_kernels.chosen_nll(batch, 1.0))
