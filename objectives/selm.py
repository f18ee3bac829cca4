"""SELM, Self-Exploring Language Models: arXiv:2405.19332; code shenao-zhang/SELM@0ba546a, scripts/selm_trainer.py:393-405.

DPO, and optimism about a third response g, the greedy sample of the policy that made the data, whichever way it was judged:

    L = -log sig(beta d) + alpha beta log pi(g)/pi_ref(g)

so that probability leaves what the model says anyway. Equal to online VPO. The extra response of a pair is g.
Units: nats; ln 2 before the first step. Defaults: beta 0.01, alpha 0.001 (the recipes of Zephyr and Phi-3; Llama-3's is
0.0001, says the code, where the paper has the latter two the other way round). Unverified: nothing else.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "extra", "extra_reference"})
EXTRAS = 1
UNIT = "pair"


class Config(Settings):
    beta: float = Field(0.01, gt=0)
    """Strength of the pull towards the reference."""
    alpha: float = Field(0.001, ge=0)
    """Optimism: weight of the extra response's log-ratio, times beta."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,)."""
    from objectives import _kernels

    optimism_P = config.alpha * config.beta * _kernels.extra_log_ratios(batch)
    return _kernels.dpo_plus(batch, config.beta, optimism_P, "optimism")
