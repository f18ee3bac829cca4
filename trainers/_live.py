"""What an objective wants to see of the policy beside log-probabilities, and of a reference that is asked while training.

The reference is a plain frozen model, whole on every rank; it costs a forward in every step and its memory, which is why
log-probabilities alone come from a `logprobs` node instead.
Legend: N responses, T response tokens, R response tokens in all, H hidden size, L layers.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import objectives
from trainers import _forward, _masks

if TYPE_CHECKING:
    from trainers import Job
    from trainers._batches import Layout

DISTRIBUTIONS = frozenset({"token_kl", "log_sum_sq"})


class Live(torch.nn.Module):
    """The forward of a training: a policy, and beside it whatever its objective needs."""

    def __init__(self, model: Any, job: "Job", reference: Any) -> None:
        super().__init__()
        needs = objectives.needs(job.objective)
        self.model = model
        self._wanted = needs & DISTRIBUTIONS
        self._reference = (reference,)  # in a tuple, so that it is no part of this module: nobody trains, divides or saves it
        self._masks = job.objective.module.masks(job.objective.config) if "masks" in needs else None
        self.masks: _masks.Learned | None = None
        if self._masks in ("common", "independent"):
            self.masks = _masks.Learned(reference.config.get_text_config(), self._masks == "independent", job.seed)

    def forward(self, laid: "Layout") -> dict[str, Tensor]:
        (reference,) = self._reference
        if reference is None:
            return _forward.seen(self.model, laid, self._wanted)
        with torch.no_grad():
            layers_LRH, activations = _masks.look(reference, laid, activations=self._masks == "activations")
        found = _forward.seen(self.model, laid, self._wanted, layers_LRH[-1], reference)
        if self._masks is not None:
            if self.masks is not None:
                reward_R, kl_R = self.masks(layers_LRH[:-1])
            else:
                reward_R = kl_R = (
                    torch.ones_like(layers_LRH[0, :, 0]) if self._masks == "ones" else _masks.of_activations(activations, laid)
                )
            found |= {"reward_mask": _forward.in_place(laid, reward_R), "kl_mask": _forward.in_place(laid, kl_R)}
        return found


def reference_of(job: "Job", dtype: str, device: str) -> Any:
    """The frozen reference model, if the objective asks one."""
    if job.reference_model is None:
        return None
    return _forward.load(job.reference_model, dtype, device).requires_grad_(False)
