"""Nash-MD with a policy gradient: arXiv:2312.00886; huggingface/trl@f2cd577.

There it is trl/experimental/nash_md/nash_md_trainer.py:367-385 (1.10.0.dev0; TRL 1.16.0 has it no more).

For a response y of the policy, the probability p that it beats a sample of the mixture of policy and reference, and
the tokens' log-ratios a_t = log pi/pi_ref, without gradient:

    L = sum_t (beta a_t - (p - 1/2)) log pi(y_t)

whose value says little: its gradient is REINFORCE, in which each token answers for its own KL alone. The responses must
be the policy's own and fresh. Win rates are against the geometric mixture of Nash-MD, which the generating step makes.
Units: nats. Default: beta 0.1 (TRL's). Unverified: nothing.
"""

from pydantic import Field

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS = frozenset({"reference", "win_rates"})
UNIT = "row"


class Config(Settings):
    beta: float = Field(0.1, ge=0)
    """Strength of the pull towards the reference."""


def loss(config: Config, batch: Batch) -> Loss:
    """Per-response losses (N,)."""
    from objectives import _kernels

    assert batch.win_rate_N is not None, "the objective declared that it needs win rates"
    ratios_NT = _kernels.per_token_ratios(batch).detach()
    weight_NT = config.beta * ratios_NT - (batch.win_rate_N - 0.5)[:, None]
    per_row_N = _kernels.totals(weight_NT * batch.logps_NT, batch.mask_NT)
    return Loss(per_row_N, {"logratio": ratios_NT.sum(-1), "win_rate": batch.win_rate_N})
