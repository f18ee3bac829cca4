"""GRPO, Group Relative Policy Optimization: arXiv:2402.03300; TRL 1.16.0, trl/trainer/grpo_trainer.py. With its variants of the reduction.

Of each prompt's K responses with scores r, the advantage A = (r - mean r) / (std r + 1e-4), std with K - 1; per token, with
rho = pi / pi_old, pi_old the policy that made the responses, and k3 = pi_ref/pi - log(pi_ref/pi) - 1:

    l = -min(rho A, clip(rho, 1 - epsilon_low, 1 + epsilon_high) A) + beta k3

    grpo           mean over each response's tokens, then over responses (the paper)
    dapo, bnpo     mean over all tokens of the optimizer step (arXiv:2503.14476; TRL's bnpo: of a micro-batch, which is the same here)
    dr_grpo        sum over tokens / max_response_tokens, mean over responses; belongs with `scale: none` (arXiv:2503.20783)

`importance: sequence` takes rho = exp(mean over tokens of log pi/pi_old), GSPO (arXiv:2507.18071); with `grpo` alone.
The latest history is pi_old, unless the responses are fresh (`on_policy`, rho = 1). A win rate among the prompt's responses as
the score, which a judge gives, makes this the group form of SPO (arXiv:2401.04056). A group whose scores are equal teaches
nothing. Units: none. Defaults: beta 0.04, epsilon 0.2 (the paper; TRL: beta 0, dapo, and k3 times rho, which is
`kl: corrected`). Unverified: the paper's beta.
"""

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from objectives import Batch, Loss
from pipeline.plugin import Settings

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NEEDS = frozenset({"groups", "scores", "history", "reference"})
UNIT = "row"


class Config(Settings):
    beta: float = Field(0.04, ge=0)
    """Weight of the KL from the reference; 0: no reference is read."""
    epsilon_low: float = Field(0.2, ge=0, le=1)
    """How far below 1 the ratio of the policies counts."""
    epsilon_high: float = Field(0.2, ge=0)
    """How far above 1 the ratio of the policies counts."""
    reduction: str = Field("grpo", pattern="^(grpo|bnpo|dapo|dr_grpo)$")
    """What is averaged over what."""
    max_response_tokens: int | None = Field(None, ge=1)
    """What dr_grpo divides by."""
    importance: str = Field("token", pattern="^(token|sequence)$")
    """Whether the ratio of the policies is each token's, or one of the whole response."""
    scale: str = Field("group", pattern="^(group|none)$")
    """Divide advantages by the standard deviation of the group's scores, or not."""
    kl: str = Field("k3", pattern="^(k3|corrected)$")
    """The paper's estimate of the KL, or that times the ratio of the policies, with its gradient."""
    on_policy: bool = False
    """The responses are the policy's own, before any step: no earlier log-probabilities are read."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.reduction == "dr_grpo" and self.max_response_tokens is None:
            raise ValueError("dr_grpo divides by max_response_tokens, which is not set; set it to the most tokens a response may have")
        if self.importance == "sequence" and self.reduction != "grpo":
            raise ValueError(f"importance sequence goes with reduction grpo, not {self.reduction}")
        return self


def needs(config: Config) -> frozenset[str]:
    """No history on policy, no reference without a KL."""
    return NEEDS - ({"history"} if config.on_policy else set()) - (set() if config.beta else {"reference"})


def unit(config: Config) -> str:
    """Tokens where all of them are averaged at once."""
    return "token" if config.reduction in ("bnpo", "dapo") else "row"


def loss(config: Config, batch: Batch) -> Loss:
    """Per-response losses (N,), or per-token ones (N, T); the responses of a group stand in one batch."""
    import torch

    from objectives import _kernels

    advantage_N = advantages(config, batch)
    rho_NT = _ratio(config, batch)
    A_NT = advantage_N[:, None]
    clipped_NT = rho_NT.clamp(1 - config.epsilon_low, 1 + config.epsilon_high)
    per_token_NT = -torch.minimum(rho_NT * A_NT, clipped_NT * A_NT)
    terms = {"advantage": advantage_N.abs(), "clipped": _kernels.totals((rho_NT != clipped_NT).to(rho_NT.dtype), batch.mask_NT, mean=True)}
    if config.beta:
        behind_NT = -_kernels.per_token_ratios(batch)
        k3_NT = torch.expm1(behind_NT) - behind_NT
        terms["kl"] = _kernels.totals(k3_NT.detach(), batch.mask_NT, mean=True)
        per_token_NT = per_token_NT + config.beta * k3_NT * (rho_NT if config.kl == "corrected" else 1.0)
    if unit(config) == "token":
        return Loss(torch.where(batch.mask_NT, per_token_NT, 0.0), terms)
    if config.reduction == "dr_grpo":
        assert config.max_response_tokens is not None, "settings are checked"
        return Loss(_kernels.totals(per_token_NT, batch.mask_NT) / config.max_response_tokens, terms)
    return Loss(_kernels.totals(per_token_NT, batch.mask_NT, mean=True), terms)


def advantages(config: Config, batch: Batch) -> "Tensor":
    """Each response's score less the mean of its group, over the group's standard deviation (N,)."""
    import torch

    assert batch.group_N is not None and batch.score_N is not None, "declared needs"
    of_group_NG = torch.nn.functional.one_hot(batch.group_N).to(batch.score_N.dtype)
    size_G = of_group_NG.sum(0).clamp(min=1)
    centred_N = batch.score_N - ((batch.score_N @ of_group_NG) / size_G)[batch.group_N]
    if config.scale == "none":
        return centred_N
    std_G = ((centred_N**2 @ of_group_NG) / (size_G - 1).clamp(min=1)).sqrt()
    return centred_N / (std_G[batch.group_N] + 1e-4)


def _ratio(config: Config, batch: Batch) -> "Tensor":
    """pi / pi_old of each token (N, T), 1 where masked."""
    import torch

    from objectives import _kernels

    if config.on_policy:
        old_NT = batch.logps_NT.detach()
    else:
        assert batch.history_HNT is not None, "the objective declared that it needs a history"
        old_NT = batch.history_HNT[0]
    log_NT = torch.where(batch.mask_NT, batch.logps_NT - torch.where(batch.mask_NT, old_NT, 0.0), 0.0)
    if config.importance == "sequence":
        log_NT = _kernels.totals(log_NT, batch.mask_NT, mean=True)[:, None].expand_as(log_NT)
    return log_NT.exp()
