"""Which units stand in which optimizer step, and how a step is cut into micro-batches and dealt to shares.

The first depends on the seed alone; the second on the machine, and changes nothing but float noise.
Legend: N responses, S tokens of a sequence, T response tokens, R response tokens of the whole micro-batch, P pairs, U units,
W responses of the largest unit, E extra responses of a unit, L policies whose log-probabilities are known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.layout import Layout, layout
from objectives import Batch, ExtraResponses
from training.examples import NOBODY, Examples

if TYPE_CHECKING:
    from torch import Tensor


def permutation(units: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the units in an epoch."""
    # Sorting raw bits of a fixed generator gives the same order in every release of numpy; `permutation` does not promise that.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(units)
    return np.argsort(bits, kind="stable")


def steps_per_epoch(units: int, batch_size: int) -> int:
    """Optimizer steps of an epoch; the last one may be smaller, so that every unit is trained on."""
    return -(-units // batch_size)


def deal(examples: Examples, units: np.ndarray, tokens: int, shares: int) -> list[list[np.ndarray | None]]:
    """Cut one step's units into micro-batches of at most `tokens` padded tokens, for each share the same number (None: nothing).

    Units that share a prompt stay together. A group longer than the budget stands alone.
    """
    lengths_N = examples.lengths_N
    gathered: dict[int, list[int]] = {}
    for unit in units.tolist():
        gathered.setdefault(int(examples.groups_U[unit]), []).append(unit)
    groups = []
    for members in gathered.values():
        main_N, extra_N = responses_of(examples, np.asarray(members)), examples.extras_UE[members].ravel()
        longest = max(int(lengths_N[some].max()) for some in (main_N, extra_N) if len(some))
        groups.append((longest, len(main_N) + len(extra_N), members))
    groups.sort(key=lambda group: (-group[0], group[2]))
    even = -(-sum(longest * count for longest, count, _ in groups) // shares)
    budget = min(tokens, even) if shares > 1 else tokens
    micro: list[list[int]] = []
    held = longest = 0
    for length, count, members in groups:  # longest first, so that a micro-batch's first group sets its width
        if micro and (held + count) * longest <= budget:
            micro[-1] += members
            held += count
        else:
            micro.append(list(members))
            held, longest = count, length
    dealt: list[list[np.ndarray | None]] = [[np.asarray(each) for each in micro[share::shares]] for share in range(shares)]
    for mine in dealt:
        mine += [None] * (len(dealt[0]) - len(mine))
    return dealt


def responses_of(examples: Examples, units: np.ndarray) -> np.ndarray:
    """The responses of some units without their extras: each once, in the order of the units where a unit is one response."""
    members = examples.units_UW[units]
    return members[:, 0] if members.shape[1] == 1 else np.unique(members[members != NOBODY])


def lay_out(examples: Examples, responses_N: np.ndarray, device: str) -> Layout:
    """The tensors of a forward over these responses."""
    lengths_N, prompts_N = examples.response_lengths_N[responses_N], examples.prompt_lengths_N[responses_N]
    kept_R = None if examples.kept_R is None else examples.kept_R[_response_tokens(examples, responses_N)[1]]
    return layout(examples.tokens_V, examples.starts_N[responses_N], prompts_N, lengths_N, device, kept_R)


def _response_tokens(examples: Examples, responses_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where responses have tokens (N, T), and where these stand among all response tokens (R,)."""
    lengths_N = examples.response_lengths_N[responses_N]
    at_T = np.arange(max(int(lengths_N.max()), 1))
    inside_NT = at_T < lengths_N[:, None]
    return inside_NT, (examples.response_starts_N[responses_N, None] + at_T)[inside_NT]


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch: its units, and the responses that go through the model for it."""

    units: np.ndarray
    main_N: np.ndarray
    extra_UE: np.ndarray
    laid: Layout

    @staticmethod
    def of(examples: Examples, units: np.ndarray, device: str, *, extras_alone: bool = False) -> "MicroBatch":
        main_N, extra_UE = responses_of(examples, units), examples.extras_UE[units]
        main_N = main_N[:0] if extras_alone else main_N
        return MicroBatch(units, main_N, extra_UE, lay_out(examples, np.concatenate([main_N, extra_UE.T.ravel()]), device))


def objective_batch(examples: Examples, micro: MicroBatch, labels_U: np.ndarray, seen: Mapping[str, "Tensor"]) -> Batch:
    """What the objective sees of a micro-batch: flat rows and pairs, whatever the layout was.

    `labels_U` are those of all pairs as they are now; `seen` is what the forward returned, by the names of `Batch`'s fields
    less the shape; its rows are `main_N`, then the extras.
    """
    import torch

    laid, logps_NT = micro.laid, seen["logps"]
    device, dtype, n, u = logps_NT.device, logps_NT.dtype, len(micro.main_N), len(micro.units)
    everyone_N = np.concatenate([micro.main_N, micro.extra_UE.T.ravel()])

    def floats(values: np.ndarray) -> "Tensor":
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, dtype)

    def of_main(values_N: np.ndarray | None) -> "Tensor | None":
        return None if values_N is None else floats(values_N[micro.main_N])

    inside_NT, where_R = _response_tokens(examples, everyone_N)

    def spread(values_R: np.ndarray) -> np.ndarray:
        spread_NT = np.zeros(inside_NT.shape, values_R.dtype)
        spread_NT[inside_NT] = values_R[where_R]
        return spread_NT

    known_LNT = floats(np.stack([spread(each) for each in examples.known_LR]))
    extra = tuple(
        ExtraResponses(logps_NT[rows], laid.mask_NT[rows], known_LNT[0, rows] if examples.extras_referenced else None)
        for rows in (slice(n + e * u, n + (e + 1) * u) for e in range(micro.extra_UE.shape[1]))
    )
    phrases = None if examples.phrases_R is None else torch.from_numpy(spread(examples.phrases_R)[:n]).to(device)
    features: dict[str, Any] = {f"{name}_NT": value[:n] for name, value in seen.items() if name not in ("logps", "degree_logits")}
    if "degree_logits" in seen:
        guessed_ENK = seen["degree_logits"].transpose(0, 1)
        features["degree_logits_EUK"] = torch.stack([each[n + e * u : n + (e + 1) * u] for e, each in enumerate(guessed_ENK)])
        features["degree_EU"] = torch.from_numpy(examples.degrees_N[micro.extra_UE.T]).to(device)
    return Batch(
        logps_NT=logps_NT[:n],
        mask_NT=laid.mask_NT[:n],
        ref_logps_NT=known_LNT[0, :n] if examples.referenced else None,
        history_HNT=known_LNT[1:, :n] if len(known_LNT) > 1 else None,
        win_rate_N=of_main(examples.win_rates_N),
        score_N=of_main(examples.scores_N),
        desirable_N=None if examples.desirable_N is None else torch.from_numpy(examples.desirable_N[micro.main_N]).to(device),
        phrase_NT=phrases,
        extra=extra,
        **features,
        **_units(examples, micro, labels_U, device, floats),
    )


def _units(
    examples: Examples, micro: MicroBatch, labels_U: np.ndarray, device: Any, floats: Callable[[np.ndarray], "Tensor"]
) -> dict[str, Any]:
    """Where the responses of pairs and groups stand among the rows."""
    import torch

    members_UW = examples.units_UW[micro.units]
    if members_UW.shape[1] == 1:
        return {}
    places_UW = np.searchsorted(micro.main_N, members_UW)
    group_N = np.zeros(len(micro.main_N), np.int64)
    for place, members in enumerate(members_UW):
        group_N[places_UW[place][members != NOBODY]] = place
    pairs = torch.from_numpy(places_UW).to(device)
    return {
        "pair_w_P": pairs[:, 0],
        "pair_l_P": pairs[:, 1],
        "pair_label_P": floats(labels_U[micro.units]),
        "pair_weight_P": floats(examples.weights_U[micro.units]),
        "group_N": torch.from_numpy(group_N).to(device),
    }


def weight(examples: Examples, units: Sequence[int] | np.ndarray, unit: str) -> float:
    """What the sum of the losses over these units is divided by.

    The total weight of pairs, the number of groups, of rows or of response tokens that are trained on; for "chosen_token", the
    number of such tokens of the pairs' chosen responses times the pairs' weights.
    """
    units = np.asarray(units)
    if unit == "pair":
        return float(examples.weights_U[units].sum())
    if unit == "chosen_token":
        return float((examples.weights_U[units] * examples.trained_N[examples.units_UW[units, 0]]).sum())
    if unit == "group":
        return float(len(units))
    responses = responses_of(examples, units)
    return float(len(responses) if unit == "row" else examples.trained_N[responses].sum())
