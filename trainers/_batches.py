"""Which units stand in which optimizer step, and how a step is cut into micro-batches and dealt to ranks.

The first depends on the seed alone; the second on the machine, and changes nothing but float noise.
Legend: N responses, S tokens of a sequence, T response tokens, R response tokens of the whole micro-batch, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from objectives import Batch
from trainers._data import Examples

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A micro-batch as tensors: sequences padded on the right, and where their response tokens are."""

    ids_NS: "Tensor"
    at_R: "Tensor"
    """Position in the flattened (N * S) hidden states that predicts each response token."""
    target_R: "Tensor"
    """The response tokens."""
    cell_R: "Tensor"
    """Where each of them goes in the flattened (N * T) log-probabilities."""
    mask_NT: "Tensor"


def permutation(units: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the units in an epoch."""
    # Sorting raw bits of a fixed generator gives the same order in every release of numpy; `permutation` does not promise that.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(units)
    return np.argsort(bits, kind="stable")


def steps_per_epoch(units: int, batch_size: int) -> int:
    """Optimizer steps of an epoch; the last one may be smaller, so that every unit is trained on."""
    return -(-units // batch_size)


def deal(examples: Examples, units: np.ndarray, tokens: int, ranks: int) -> list[list[np.ndarray | None]]:
    """Cut one step's units into micro-batches of at most `tokens` padded tokens, for each rank the same number (None: nothing).

    Units that share a prompt stay together. A group longer than the budget stands alone.
    """
    lengths_N = examples.lengths_N
    gathered: dict[int, list[int]] = {}
    for unit in units.tolist():
        gathered.setdefault(int(examples.groups_U[unit]), []).append(unit)
    groups = []
    for members in gathered.values():
        responses = np.unique(examples.units_U[members])
        groups.append((int(lengths_N[responses].max()), len(responses), members))
    groups.sort(key=lambda group: (-group[0], group[2]))
    share = -(-sum(longest * count for longest, count, _ in groups) // ranks)
    budget = min(tokens, share) if ranks > 1 else tokens
    micro: list[list[int]] = []
    held = longest = 0
    for length, count, members in groups:  # longest first, so that a micro-batch's first group sets its width
        if micro and (held + count) * longest <= budget:
            micro[-1] += members
            held += count
        else:
            micro.append(list(members))
            held, longest = count, length
    dealt: list[list[np.ndarray | None]] = [[np.asarray(each) for each in micro[rank::ranks]] for rank in range(ranks)]
    for mine in dealt:
        mine += [None] * (len(dealt[0]) - len(mine))
    return dealt


def lay_out(examples: Examples, responses_N: np.ndarray, device: str) -> Layout:
    """The tensors of a forward over these responses."""
    lengths_N, prompts_N = examples.lengths_N[responses_N], examples.prompt_lengths_N[responses_N]
    return layout(examples.tokens_V, examples.starts_N[responses_N], prompts_N, lengths_N - prompts_N, device)


def layout(tokens_V: np.ndarray, starts_N: np.ndarray, prompts_N: np.ndarray, responses_N: np.ndarray, device: str) -> Layout:
    """The tensors of a forward over sequences that lie end to end in `tokens_V`."""
    import torch

    lengths_N = prompts_N + responses_N
    n, s, t = len(starts_N), int(lengths_N.max()), max(int(responses_N.max()), 1)
    at_S = np.arange(s)
    inside_NS = at_S < lengths_N[:, None]
    ids_NS = np.zeros((n, s), np.int64)
    ids_NS[inside_NS] = tokens_V[(starts_N[:, None] + at_S)[inside_NS]]
    mask_NT = np.arange(t) < responses_N[:, None]
    row_R, column_R = np.nonzero(mask_NT)
    position_R = prompts_N[row_R] + column_R
    found = (ids_NS, row_R * s + position_R - 1, ids_NS[row_R, position_R], row_R * t + column_R, mask_NT)
    return Layout(*(torch.from_numpy(each).to(device, non_blocking=True) for each in found))


def responses_of(examples: Examples, units: np.ndarray) -> np.ndarray:
    """The responses of some units, each once, in a fixed order."""
    return np.unique(examples.units_U[units])


def objective_batch(examples: Examples, units: np.ndarray, responses_N: np.ndarray, laid: Layout, logps_NT: "Tensor") -> Batch:
    """What the objective sees of a micro-batch: flat rows and pairs, whatever the layout was."""
    import torch

    device, dtype = logps_NT.device, logps_NT.dtype

    def floats(values: np.ndarray) -> "Tensor":
        return torch.from_numpy(values).to(device, dtype)

    ref_logps_NT = None
    if examples.ref_logps_R is not None:
        at_T = np.arange(laid.mask_NT.shape[1])
        inside_NT = at_T < examples.response_lengths_N[responses_N, None]
        ref_NT = np.zeros(inside_NT.shape, np.float32)
        ref_NT[inside_NT] = examples.ref_logps_R[(examples.response_starts_N[responses_N, None] + at_T)[inside_NT]]
        ref_logps_NT = floats(ref_NT)
    win_rate_N = None if examples.win_rates_N is None else floats(examples.win_rates_N[responses_N])
    if examples.units_U.shape[1] == 1:
        return Batch(logps_NT, laid.mask_NT, ref_logps_NT, win_rate_N=win_rate_N)
    pairs_P2 = torch.from_numpy(np.searchsorted(responses_N, examples.units_U[units])).to(device)
    return Batch(
        logps_NT=logps_NT,
        mask_NT=laid.mask_NT,
        ref_logps_NT=ref_logps_NT,
        pair_w_P=pairs_P2[:, 0],
        pair_l_P=pairs_P2[:, 1],
        pair_label_P=floats(examples.labels_U[units]),
        pair_weight_P=floats(examples.weights_U[units]),
        win_rate_N=win_rate_N,
    )


def weight(examples: Examples, units: Sequence[int] | np.ndarray, unit: str) -> float:
    """What the sum of the losses over these units is divided by: total weight of pairs, number of rows or of response tokens."""
    if unit == "pair":
        return float(examples.weights_U[units].sum())
    responses = responses_of(examples, np.asarray(units))
    return float(len(responses) if unit == "row" else examples.response_lengths_N[responses].sum())
