"""SparsePO with learned masks: arXiv:2410.05102; code huawei-noah/HEBO, SparsePO/src/trainers/sparse_trainer.py.

Per token t of y: a_t = log pi/pi_ref, K_t = KL(pi_ref || pi) over the vocabulary, and masks mu_t, md_t >= 0 learned with the
policy from the reference's hidden states:

    U_y = sum_t mu_t a_t      K_y = sum_t md_t K_t
    L = -log sig(beta [(U_w - U_l) + (K_w - K_l)]) + l1_u (|mu_w| + |mu_l|) + l1_d (|md_w| + |md_l|)

With masks of ones and no l1 this is TDPO-1. The gradient reaches the masks. The reference has to be asked during training.
Units: nats. Defaults: beta 0.1, l1 0.001 (the published run on HH; its learning rate 5e-7). Unverified: nothing.
"""

from typing import Literal

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "token_kl", "masks"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""
    masks: Literal["common", "independent", "ones"] = "common"
    """One learned mask for log-ratios and KL, one for each, or no mask (TDPO-1, arXiv:2404.11999)."""
    l1_u: float = Field(0.001, ge=0)
    """Price of each unit of the mask of log-ratios: it makes the mask sparse."""
    l1_d: float = Field(0.001, ge=0)
    """Price of each unit of the mask of KL."""


def masks(config: Config) -> str:
    """Where masks come from."""
    return config.masks


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the logged log-ratios are masked."""
    from objectives import _kernels

    assert batch.reward_mask_NT is not None and batch.kl_mask_NT is not None, "the objective declared that it needs masks"
    margin_P, chosen_P, rejected_P = _kernels.masked_margin(batch)
    price_NT = config.l1_u * batch.reward_mask_NT.abs() + config.l1_d * batch.kl_mask_NT.abs()
    price_w_P, price_l_P = _kernels.of_pairs(batch, _kernels.totals(price_NT, batch.mask_NT))
    per_pair_P = _kernels.logistic(config.beta * margin_P) + price_w_P + price_l_P
    terms = {**_kernels.pair_terms(chosen_P, rejected_P), "mask_price": (price_w_P + price_l_P).detach()}
    return Loss(_kernels.weighted(batch, per_pair_P), terms)
