"""What an objective wants to see of the policy beside log-probabilities, and of a reference that is asked while training.

The reference is a plain frozen model, whole on every rank; it costs a forward in every step and its memory, which is why
log-probabilities alone come from a `logprobs` node instead.
Legend: N responses, T response tokens, R response tokens in all, H hidden size, L layers, E extra
responses of a unit, K degrees.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import objectives
from models import forward as forwards
from training import masks

if TYPE_CHECKING:
    from models.layout import Layout
    from training.job import Job

DISTRIBUTIONS = frozenset({"token_kl", "log_sum_sq"})


class Policy(torch.nn.Module):
    """The forward of a training: a policy, and beside it whatever its objective needs."""

    def __init__(self, model: Any, job: "Job", reference: Any) -> None:
        super().__init__()
        needs = objectives.needs(job.objective)
        self.model = model
        self._wanted = needs & DISTRIBUTIONS
        self._reference = (reference,)  # in a tuple, so that it is no part of this module: nobody trains, divides or saves it
        self._mask_kind = job.objective.module.masks(job.objective.config) if "masks" in needs else None
        self.masks: masks.Learned | None = None
        if self._mask_kind in ("common", "independent"):
            self.masks = masks.Learned(reference.config.get_text_config(), self._mask_kind == "independent", job.seed)
        self.heads = torch.nn.ModuleList()
        if "degrees" in needs:
            module, hidden = job.objective.module, int(model.config.get_text_config().hidden_size)
            for _ in range(module.EXTRAS):  # of zeros: all degrees are equally likely before the first step
                head = torch.nn.utils.skip_init(torch.nn.Linear, hidden, module.degrees(job.objective.config)).requires_grad_()
                self.heads.append(head)
                for parameter in head.parameters():
                    torch.nn.init.zeros_(parameter)

    def forward(self, laid: "Layout") -> dict[str, Tensor]:
        (reference,) = self._reference
        hidden_SH = forwards.hidden(self.model, laid)
        if reference is None:
            return forwards.seen(self.model, laid, hidden_SH, self._wanted) | self._degrees(laid, hidden_SH)
        with torch.no_grad():
            layers_LRH, activations = masks.look(reference, laid, activations=self._mask_kind == "activations")
        found = forwards.seen(self.model, laid, hidden_SH, self._wanted, layers_LRH[-1], reference)
        if self._mask_kind is not None:
            if self.masks is not None:
                reward_R, kl_R = self.masks(layers_LRH[:-1])
            elif self._mask_kind == "activations":
                reward_R = kl_R = masks.of_activations(activations, laid)
            else:
                reward_R = kl_R = torch.ones_like(layers_LRH[0, :, 0])
            found |= {"reward_mask": forwards.in_place(laid, reward_R), "kl_mask": forwards.in_place(laid, kl_R)}
        return found | self._degrees(laid, hidden_SH)

    def _degrees(self, laid: "Layout", hidden_SH: Tensor) -> dict[str, Tensor]:
        """What each head makes of the state of each response's last trained token (N, E, K); of an empty response, of no state."""
        if not self.heads:
            return {}
        rows, width = laid.mask_NT.shape
        at_R = laid.at_R if laid.kept_R is None else torch.where(laid.kept_R, laid.at_R, -1)
        last_N = torch.full((rows,), -1, device=at_R.device).scatter_reduce(0, laid.cell_R // width, at_R, "amax") + 1
        states_NH = torch.where((last_N > 0)[:, None], hidden_SH[last_N], 0.0).to(next(self.heads.parameters()).dtype)
        return {"degree_logits": torch.stack([head(states_NH) for head in self.heads], 1).float()}


def reference_of(job: "Job", dtype: str, device: str) -> Any:
    """The frozen reference model, if the objective asks one."""
    if job.reference_model is None:
        return None
    return forwards.load(job.reference_model, dtype, device).requires_grad_(False)
