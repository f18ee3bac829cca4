"""MNPO, Multiplayer Nash Preference Optimization: arXiv:2509.23102; smiles724/MNPO@b8317e9, mnpo_scripts/mnpo_trainer.py:45-87.

With D_q = log q(chosen) - log q(rejected), the reference, and the latest T earlier policies pi_j as opponents:

    h = D_pi - ratio D_ref - (1 - ratio) sum_{j<T} lambda_j D_{pi_j}       sum_j lambda_j = 1
    L = (h - 1/(2 eta))^2

With one opponent this is INPO with tau/eta = ratio. D sums over tokens, as the paper has it; the released code takes means
(`length_average`), whose margins are far below the target, so that its loss is almost linear in them. Without a history the
released code drops the opponents' share silently; this refuses, unless `history_weights` is empty.
Units: nats squared. Defaults: eta 0.0075, ratio 1/3, two opponents of equal weight. Unverified: nothing.
"""

from pydantic import Field, model_validator

from objectives import Batch, Loss
from pipeline.errors import Refusal
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"pairs", "reference", "history"})
UNIT = "pair"


class Config(Settings):
    eta: float = Field(0.0075, gt=0)
    """One over the step size: the margin aimed at is 1/(2 eta)."""
    ratio: float = Field(1 / 3, ge=0, le=1)
    """The reference's share; the opponents have the rest."""
    max_history: int = Field(2, ge=1)
    """How many earlier policies are opponents, the latest first."""
    history_weights: tuple[float, ...] | None = None
    """Weights of the opponents, the latest first, brought to sum 1 over those there are; none: equal ones. Empty: no opponents."""
    length_average: bool = False
    """Mean over response tokens, as the released code has it; false: sum."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.history_weights and min(self.history_weights) < 0:
            raise ValueError(f"history_weights {self.history_weights} has a negative weight; weights are at least 0")
        if self.history_weights and len(self.history_weights) < self.max_history:
            raise ValueError(f"{len(self.history_weights)} history_weights for max_history {self.max_history}; give each opponent a weight")
        return self


def needs(config: Config) -> frozenset[str]:
    """No history if there are to be no opponents."""
    return NEEDS - {"history"} if config.history_weights == () else NEEDS


def beta(config: Config) -> float:
    """Of the implied reward: eta, as of IPO."""
    return config.eta


def loss(config: Config, batch: Batch) -> Loss:
    """Per-pair losses (P,). Raises Refusal if there is no history and it was not said that there need be none."""
    from objectives import _kernels

    assert batch.ref_logps_NT is not None, "the objective declared that it needs a reference"
    opponents = [(config.ratio, batch.ref_logps_NT)]
    if config.history_weights != ():
        if batch.history_HNT is None or not len(batch.history_HNT):
            raise Refusal("history: mnpo has no opponent; name logprobs under earlier policies, or set history_weights: [] to have none")
        history_HNT = batch.history_HNT[: config.max_history]
        shares = _shares(config, len(history_HNT))
        opponents += [((1 - config.ratio) * share, logps_NT) for share, logps_NT in zip(shares, history_HNT, strict=True)]
    gap_P = _kernels.gap(batch, opponents, mean=config.length_average)
    return _kernels.regression(batch, gap_P, 1 / (2 * config.eta), mean=config.length_average)


def _shares(config: Config, count: int) -> list[float]:
    weights = (config.history_weights or (1.0,) * count)[:count]
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1 / count] * count
