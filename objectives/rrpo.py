"""RRPO, Refined Regularized Preference Optimization: arXiv:2504.12083; code pritamqu/RRPO, llava/losses.py.

Pairs differ in marked phrases alone, numbered alike on both sides. With m_y,k the sum of the tokens' log-ratios
log pi/pi_ref in the k-th phrase of y:

    L = -log sig(beta sum_k (m_w,k - m_l,k)) + alpha sum_t KL(pi_ref || pi) at t, over all tokens of the chosen response

The KL is over the vocabulary and takes the unmarked tokens too; the rejected response has none. A pair without a mark has the
constant ln 2 in the first term. The reference has to be asked during training.
Units: nats. Defaults: beta 0.1, alpha 0.01 (the published LLaVA-Video run; others 0.9/0.01, 0.5/0.05). Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "phrases", "token_kl"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    alpha: float = Field(0.01, ge=0)
    """Weight of the chosen response's KL."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the logged log-ratios are of the marked phrases."""
    from objectives import _kernels

    assert batch.phrase_NT is not None and batch.token_kl_NT is not None, "declared needs"
    marked_NT = batch.mask_NT & (batch.phrase_NT > 0)
    chosen_P, rejected_P = _kernels.of_pairs(batch, _kernels.totals(_kernels.per_token_ratios(batch), marked_NT))
    kl_P, _ = _kernels.of_pairs(batch, _kernels.totals(batch.token_kl_NT, batch.mask_NT))
    per_pair_P = _kernels.logistic(config.beta * (chosen_P - rejected_P)) + config.alpha * kl_P
    return Loss(_kernels.weighted(batch, per_pair_P), {**_kernels.pair_terms(chosen_P, rejected_P), "kl": kl_P.detach()})
