"""PRO, Preference Ranking Optimization: arXiv:2306.17492; AlibabaResearch/DAMO-ConvAI, PRO/train/utils/process_manager.py.

n responses to a prompt, sorted by score R_1 >= ... >= R_n, with c_i the mean log-probability of the tokens of the i-th; the
gaps of the scores are inverse temperatures, t_i = R_k - R_i for i > k and t_k = max over i > k of t_i:

    L = sum_{k<n} [ log(epsilon + sum_{i>=k} exp(c_i t_i)) - c_k t_k ]  +  sft_weight (n-1)^2 (-log pi(best response))

The ranking term takes means over tokens, the other the sum. No reference. Equal scores say nothing; the scale of the
scores matters, and the released code takes the reward model's as they are. Of responses with the best score, the first is
the best. Units: nats. Defaults: sft_weight 0.05, epsilon 1e-10 (the code's). Unverified: nothing.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NEEDS = frozenset({"groups", "scores"})
UNIT = "group"


class Config(Settings):
    sft_weight: float = Field(0.05, ge=0)
    """Weight of the best response's negative log-likelihood, times (n-1)^2."""
    epsilon: float = Field(1e-10, gt=0)
    """Added within the logarithm."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-group losses (G,)."""
    import torch

    from objectives import _kernels

    assert batch.group_N is not None and batch.score_N is not None, "declared needs"
    total_N = _kernels.totals(batch.logps_NT, batch.mask_NT)
    mean_N = _kernels.totals(batch.logps_NT, batch.mask_NT, mean=True)
    ranking: list[Tensor] = []
    nll: list[Tensor] = []
    for group in range(int(batch.group_N.max()) + 1):
        members = (batch.group_N == group).nonzero()[:, 0]
        score_K, order = torch.sort(batch.score_N[members], descending=True, stable=True)
        members = members[order]
        ranking.append(_ranking(mean_N[members], score_K, config.epsilon))
        nll.append(-config.sft_weight * (len(members) - 1) ** 2 * total_N[members[0]])
    ranking_G, nll_G = torch.stack(ranking), torch.stack(nll)
    return Loss(ranking_G + nll_G, {"ranking": ranking_G.detach(), "sft": nll_G.detach()})


def _ranking(mean_K: "Tensor", score_K: "Tensor", epsilon: float) -> "Tensor":
    """The ranking term of one group, best first."""
    import torch

    floor = mean_K.new_full((1,), epsilon).log()
    total = mean_K.sum() * 0.0
    for k in range(len(mean_K) - 1):
        worse = score_K[k] - score_K[k + 1 :]
        own = mean_K[k] * worse.max()
        total = total + torch.logsumexp(torch.cat([floor, own[None], mean_K[k + 1 :] * worse]), 0) - own
    return total
