"""SFT, supervised fine-tuning: maximum likelihood of the responses (TRL's `sft` loss of chosen responses).

    L = - (sum over all response tokens of the batch of log pi) / (number of those tokens)

The unit is the token: a long response weighs more than a short one. Over a table of pairs, the chosen responses
alone are read. Units: nats per token. No settings; nothing unverified.
"""

from objectives import Batch, Loss
from pipeline.plugin import Settings

VERSION = 1
NEEDS: frozenset[str] = frozenset()
UNIT = "token"


class Config(Settings):
    pass


def loss(config: Config, batch: Batch) -> Loss:
    """Per-token losses (N, T)."""
    import torch

    return Loss(torch.where(batch.mask_NT, -batch.logps_NT, 0.0))
