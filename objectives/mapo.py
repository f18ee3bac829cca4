"""MaPO, SparsePO with masks from activations: arXiv:2410.05102; huawei-noah/HEBO, SparsePO/src/trainers/mapo_trainer.py.

The loss is SparsePO's without a price on masks (which are not learned):

    L = -log sig(beta [(U_w - U_l) + (K_w - K_l)])

One mask serves log-ratios and KL. It is made of the reference's activations: each activation's mean over features,
z-normalised over the response's tokens, brought to [0, 1], and averaged over activations; whoever trains makes it.
Units: nats. Default: beta 0.1 (the published run on HH; its learning rate 1e-6). Unverified: nothing.
Another MaPO, margin-aware preference optimization of diffusion models, is not this.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "token_kl", "masks"})
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference."""


def masks(config: Config) -> str:
    """Where masks come from."""
    return "activations"


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,); the logged log-ratios are masked."""
    from objectives import _kernels

    margin_P, chosen_P, rejected_P = _kernels.masked_margin(batch)
    return Loss(_kernels.weighted(batch, _kernels.logistic(config.beta * margin_P)), _kernels.pair_terms(chosen_P, rejected_P))
