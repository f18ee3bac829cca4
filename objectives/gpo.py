"""GPO, General Preference Optimization: arXiv:2410.02197; general-preference-model, LLM-Alignment/scripts.

SPPO's regression with a score in the place of the win rate less one half. With w, l the summed log-ratios of the chosen
and the rejected response against the policy that made them, and s the judge's mean score of each against the others:

    L = 1/2 [(w - s_w / beta)^2 + (l - s_l / beta)^2]

Scores are the mean over all K candidates of the logits, each minus its opposite, as the released scripts make them: twice
an antisymmetric score. Units: nats. Default: beta 0.001, no clamp. Unverified: the trainer is not in the released code, so
that the factor 1/2 and where CLAMP_THRES=1000 of its scripts applies are inferred.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "scores"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.001, gt=0)
    """As in SPPO: the smaller, the larger the step."""
    clamp: float | None = Field(None, gt=0)
    """Bring the targets s / beta to at most this many nats, up and down."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the gradients of chosen and rejected do not depend on each other."""
    from objectives import _kernels

    assert batch.score_N is not None, "the objective declared that it needs scores"
    target_N = batch.score_N / config.beta
    if config.clamp is not None:
        target_N = target_N.clamp(-config.clamp, config.clamp)
    ratio_N = _kernels.log_ratios(batch)
    left_w_P, left_l_P = _kernels.of_pairs(batch, _kernels.squared(ratio_N, target_N))
    per_pair_P = (left_w_P + left_l_P) / 2
    terms = {**_kernels.pair_terms(*_kernels.of_pairs(batch, ratio_N)), "scaled_loss": per_pair_P.detach() * config.beta**2}
    return Loss(_kernels.weighted(batch, per_pair_P), terms)
