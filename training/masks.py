"""Weights of tokens for SparsePO and MaPO (arXiv:2410.05102; code huawei-noah/HEBO, SparsePO/src/masks).

MaPO takes them from activations of the reference model; SparsePO learns them from its hidden states. Differs from the
code: activations are found by the names of transformers' modules (q_proj, k_proj, v_proj, what goes into o_proj and
down_proj, and what each layer puts out), logits are left out, and nothing is dropped out of learned masks, so that a
resumed training has the same result.
Legend: R response tokens in all, N responses, H hidden size, L layers.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.errors import Refusal

if TYPE_CHECKING:
    from models.layout import Layout

OUTPUTS = ("q_proj", "k_proj", "v_proj")
INPUTS = ("o_proj", "down_proj")


def look(reference: Any, laid: "Layout", *, activations: bool) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """States at the places that predict response tokens: of every layer, then after the final norm (L + 1, R, H).

    With `activations`, also the mean over features of each activation, by its type, (R,) each.
    """
    found: dict[str, list[Tensor]] = {}

    def picked(value: Tensor) -> Tensor:
        return value.flatten(0, 1).index_select(0, laid.at_R)

    def keep(kind: str, value: Tensor) -> None:
        found.setdefault(kind, []).append(picked(value).float().mean(-1))

    with ExitStack() as hooks:
        for name, module in reference.named_modules() if activations else ():
            kind = name.rpartition(".")[2]
            if kind in OUTPUTS:
                hooks.callback(module.register_forward_hook(_after(keep, kind)).remove)
            elif kind in INPUTS:
                hooks.callback(module.register_forward_pre_hook(_before(keep, kind)).remove)
        decoder = reference.get_decoder()
        out = decoder(input_ids=laid.ids_NS, use_cache=False, output_hidden_states=True)
    if activations and not found:
        raise Refusal(f"objective: {type(reference).__name__} has no modules named {', '.join(OUTPUTS + INPUTS)} to take masks from")
    # transformers gives the embeddings, what each layer but the last puts out, and what comes out of the final norm.
    layers = [picked(each) for each in out.hidden_states[1:-1]]
    for each in layers if activations else ():
        found.setdefault("layer", []).append(each.float().mean(-1))
    last = picked(out.last_hidden_state)
    return torch.stack([*(layers or [last]), last]), found


def _after(keep: Callable[[str, Tensor], None], kind: str) -> Callable[..., None]:
    return lambda module, given, made: keep(kind, made)


def _before(keep: Callable[[str, Tensor], None], kind: str) -> Callable[..., None]:
    return lambda module, given: keep(kind, given[0])


def of_activations(found: dict[str, list[Tensor]], laid: "Layout") -> Tensor:
    """MaPO's mask (R,): each activation scaled to [0, 1] over its response's trained tokens, averaged within a type, then over types.

    Where an activation is the same for all tokens of a response, as for a response of one token, it counts 1.
    """
    rows, width = laid.mask_NT.shape
    row_R = laid.cell_R // width

    def kept(value_R: Tensor, fill: float) -> Tensor:
        return value_R if laid.kept_R is None else torch.where(laid.kept_R, value_R, fill)

    def scaled(value_R: Tensor) -> Tensor:
        low, high = (
            torch.full((rows,), fill, device=value_R.device).scatter_reduce(0, row_R, kept(value_R, fill), how)
            for fill, how in ((float("inf"), "amin"), (-float("inf"), "amax"))
        )
        span_R = (high - low)[row_R]
        return torch.where(span_R > 0, (value_R - low[row_R]) / span_R.clamp(min=1e-30), 1.0)

    return torch.stack([torch.stack([scaled(each) for each in some]).mean(0) for some in found.values()]).mean(0)


class Learned(torch.nn.Module):
    """SparsePO's masks: of each layer's state a number, of these one more, both cut off at 0."""

    def __init__(self, config: Any, independent: bool, seed: int) -> None:
        super().__init__()
        layers, hidden = max(int(config.num_hidden_layers) - 1, 1), int(config.hidden_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = torch.nn.ModuleList(_Head(layers, hidden) for _ in range(2 if independent else 1))

    def forward(self, states_LRH: Tensor) -> tuple[Tensor, Tensor]:
        """Weights in reward and in KL (R,) each."""
        states_LRH = states_LRH.to(next(self.parameters()).dtype)
        made = [head(states_LRH).float() for head in self.heads]
        return made[0], made[-1]


class _Head(torch.nn.Module):
    def __init__(self, layers: int, hidden: int) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(hidden) for _ in range(layers))
        self.each = torch.nn.ModuleList(torch.nn.Linear(hidden, 1) for _ in range(layers))
        self.joined = torch.nn.Linear(layers, 1, bias=False)

    def forward(self, states_LRH: Tensor) -> Tensor:
        made = [torch.relu(line(norm(state)))[:, 0] for norm, line, state in zip(self.norms, self.each, states_LRH, strict=True)]
        return torch.relu(self.joined(torch.stack(made, -1)))[:, 0]
