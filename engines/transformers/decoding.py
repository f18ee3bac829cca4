"""Batched generation with a Hugging Face model: length-sorted batches, one prefill a prompt, finished rows leave at once.

Written instead of `model.generate` because each row needs its own seed, so that its tokens do not depend on the rows
beside it, and the untempered log-probability of every sampled token. Knows ids only: no text but for stop strings.

Shapes: P prompts of a batch, R rows (samples) still running, L padded prompt length, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engines import Request
from engines.transformers.draws import stream, uniforms
from models.batching import by_length

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One sample to be drawn."""

    request: int
    sample: int
    prompt: tuple[int, ...]
    """All that stands before it, what its response begins with included."""
    room: int
    """Most tokens it may get."""


@dataclass
class Drawn:
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str = "length"


def batches(rows: Sequence[Row], tokens_per_batch: int) -> Iterator[list[Row]]:
    """Rows by prompt length, in batches that hold at most this many tokens at their longest (but at least one row)."""
    batch: list[Row] = []
    width = 0
    for row in sorted(rows, key=lambda row: (len(row.prompt), row.room, row.request, row.sample)):
        needed = max(width, len(row.prompt) + row.room)
        if batch and needed * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch, needed = [], len(row.prompt) + row.room
        batch.append(row)
        width = needed
    if batch:
        yield batch


Stopped = Callable[[Request, list[int]], bool]
"""Whether these sampled ids have just completed one of the request's stop strings."""


def draw(model: Any, batch: Sequence[Row], requests: Sequence[Request], stop_ids: Sequence[int], stopped: Stopped) -> list[Drawn]:
    """Sample every row of a batch to its end, in the order of the batch."""
    import numpy as np
    import torch

    device = next(model.parameters()).device
    asked = [requests[row.request] for row in batch]
    logits_RV, cache, mask_RL = _prefill(model, [row.prompt for row in batch])
    position_R = mask_RL.sum(dim=1)
    settings = Settings.of(asked, device)
    room_R = torch.tensor([row.room for row in batch], device=device)
    stops = torch.tensor(stop_ids, device=device)
    live = np.arange(len(batch))
    streams = np.array([stream(request.seed, row.sample) for row, request in zip(batch, asked, strict=True)], dtype=np.uint64)
    position_of = np.array([len(request.begun) for request in asked], dtype=np.uint64)  # numbers go by the place in the response
    drawn = [Drawn([], []) for _ in batch]
    step = 0
    while True:
        token_R = pick(logits_RV, settings, torch.from_numpy(uniforms(streams[live], position_of[live] + np.uint64(step))).to(device))
        logprob_R = torch.log_softmax(logits_RV.float(), dim=-1).gather(1, token_R[:, None])[:, 0]
        ended = torch.isin(token_R, stops).tolist()
        for i, (at, token, logprob) in enumerate(zip(live.tolist(), token_R.tolist(), logprob_R.tolist(), strict=True)):
            drawn[at].token_ids.append(token)
            drawn[at].logprobs.append(logprob)
            ended[i] = ended[i] or stopped(asked[at], drawn[at].token_ids)
            if ended[i]:
                drawn[at].finish_reason = "stop"
        step += 1
        keep = (~torch.tensor(ended, device=device) & (room_R > step)).nonzero()[:, 0]
        if not len(keep):
            return drawn
        if len(keep) < len(live):
            live = live[keep.cpu().numpy()]
            cache.batch_select_indices(keep)
            token_R, mask_RL, position_R, room_R = token_R[keep], mask_RL[keep], position_R[keep], room_R[keep]
            settings = settings.keep(keep)
        mask_RL = torch.cat([mask_RL, mask_RL.new_ones(len(mask_RL), 1)], dim=1)
        at_R1 = position_R[:, None]
        logits_RV = model(
            input_ids=token_R[:, None], attention_mask=mask_RL, position_ids=at_R1, past_key_values=cache, use_cache=True
        ).logits[:, -1]
        position_R = position_R + 1


def _prefill(model: Any, prompts: Sequence[tuple[int, ...]]) -> "tuple[Tensor, Any, Tensor]":
    """Logits (R, V) after each row's prompt, the cache and the mask (R, L); equal prompts are computed once."""
    import torch
    from transformers import DynamicCache

    distinct = {prompt: at for at, prompt in enumerate(dict.fromkeys(prompts))}
    ids_PL, mask_PL = pad_left(list(distinct), next(model.parameters()).device)
    cache = model.new_cache() if hasattr(model, "new_cache") else DynamicCache(config=model.config)
    position_PL = (mask_PL.cumsum(dim=1) - 1).clamp(min=0)
    out = model(input_ids=ids_PL, attention_mask=mask_PL, position_ids=position_PL, past_key_values=cache, use_cache=True, logits_to_keep=1)
    rows_R = torch.tensor([distinct[prompt] for prompt in prompts], device=ids_PL.device)
    cache.batch_select_indices(rows_R)
    return out.logits[:, -1][rows_R], cache, mask_PL[rows_R]


def pad_left(sequences: Sequence[Sequence[int]], device: Any) -> "tuple[Tensor, Tensor]":
    """Ids (P, L) that end together, 0 where padded, and their mask (P, L)."""
    import torch

    width = max(len(ids) for ids in sequences)
    ids_PL = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in sequences])
    mask_PL = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in sequences])
    return ids_PL.to(device), mask_PL.to(device)


@dataclass(frozen=True)
class Settings:
    """Sampling settings of each running row; `filters` is False where no row restricts its vocabulary."""

    temperature_R: "Tensor"
    top_p_R: "Tensor"
    top_k_R: "Tensor"
    filters: bool

    @staticmethod
    def of(requests: Sequence[Request], device: Any) -> "Settings":
        import torch

        return Settings(
            torch.tensor([request.temperature for request in requests], dtype=torch.float32, device=device),
            torch.tensor([request.top_p for request in requests], dtype=torch.float64, device=device),
            torch.tensor([request.top_k or 1 << 40 for request in requests], device=device),
            any(request.temperature > 0 and (request.top_p < 1 or request.top_k) for request in requests),
        )

    def keep(self, rows: "Tensor") -> "Settings":
        return Settings(self.temperature_R[rows], self.top_p_R[rows], self.top_k_R[rows], self.filters)


def pick(logits_RV: "Tensor", settings: Settings, u_R: "Tensor") -> "Tensor":
    """One token a row by inverting the distribution function at `u_R`: temperature, then top-k, then top-p of what is left.

    The vocabulary is walked in its own order, not sorted by probability, so that two tokens of nearly equal
    probability do not swap places when rounding differs between batches.
    """
    import torch

    greedy_R = logits_RV.argmax(dim=-1)
    hot_R = settings.temperature_R > 0
    if not bool(hot_R.any()):
        return greedy_R
    scale_R = torch.where(hot_R, settings.temperature_R, 1.0)
    probs_RV = torch.softmax(logits_RV.float() / scale_R[:, None], dim=-1).double()
    if settings.filters:
        probs_RV = probs_RV * nucleus(probs_RV, settings)
    cdf_RV = probs_RV.cumsum(dim=-1)
    sampled_R = torch.searchsorted(cdf_RV, (u_R * cdf_RV[:, -1])[:, None], right=True)[:, 0]
    return torch.where(hot_R, sampled_R, greedy_R)


def nucleus(probs_RV: "Tensor", settings: Settings) -> "Tensor":
    """True for the tokens that top-k and then top-p keep: the fewest likeliest ones that reach the mass top_p."""
    import torch

    sorted_RV, order_RV = probs_RV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(sorted_RV.shape[1], device=sorted_RV.device)
    sorted_RV = sorted_RV * (rank_V < settings.top_k_R[:, None])
    sorted_RV = sorted_RV / sorted_RV.sum(dim=-1, keepdim=True)
    before_RV = sorted_RV.cumsum(dim=-1) - sorted_RV
    kept_RV = (before_RV < settings.top_p_R[:, None]) & (rank_V < settings.top_k_R[:, None])
    return torch.zeros_like(kept_RV).scatter(1, order_RV, kept_RV)


def continuations(model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], tokens_per_batch: int) -> list[float]:
    """Summed log-probability of each continuation after its prompt, in the order given."""
    import torch

    sums = [0.0] * len(pairs)
    device = next(model.parameters()).device
    for batch in by_length([len(prompt) + len(ids) for prompt, ids in pairs], tokens_per_batch):
        ids_PL, mask_PL = pad_left([[*pairs[i][0], *pairs[i][1]] for i in batch], device)
        tail = max(len(pairs[i][1]) for i in batch)
        position_PL = (mask_PL.cumsum(dim=1) - 1).clamp(min=0)
        logits = model(input_ids=ids_PL, attention_mask=mask_PL, position_ids=position_PL, use_cache=False, logits_to_keep=tail + 1).logits
        logps = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        logps = logps.gather(2, ids_PL[:, ids_PL.shape[1] - tail :, None])[:, :, 0]
        for row, i in enumerate(batch):
            sums[i] = float(logps[row, tail - len(pairs[i][1]) :].sum())
    return sums
