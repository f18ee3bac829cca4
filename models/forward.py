"""The one forward pass: log-probabilities of response tokens. Training, reference and canary all come through here.

Logits are computed at response positions alone, in chunks, and the softmax is taken in float32 or better. There is
no attention mask: padding stands on the right, and a causal model cannot see it from the left.
Legend: N responses, S tokens of a sequence, T response tokens, R response tokens in all, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models import Model, canary, weights
from models.layout import Layout, layout
from pipeline.errors import Refusal

CHUNK_LOGITS = 2**26
"""Logits that exist at once (256 MiB in float32); with more, each chunk is computed again in the backward pass."""
AGREE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest difference of a log-probability from the model's own logits that counts as arithmetic."""


def response_logps(model: Any, laid: Layout) -> Tensor:
    """log pi(token | before) of the response tokens (N, T), 0 where masked, float32 or better; carries the gradient."""
    return seen(model, laid, hidden(model, laid))["logps"]


def seen(
    model: Any,
    laid: Layout,
    hidden_SH: Tensor,
    wanted: frozenset[str] = frozenset(),
    ref_states_RH: Tensor | None = None,
    reference: Any = None,
) -> dict[str, Tensor]:
    """`logps` of response tokens, and with them what is `wanted` of their distributions, (N, T) each, 0 where masked.

    "log_sum_sq" is log sum_v pi(v)^2; "token_kl" is KL(reference || policy), for which `reference` and its states at the
    same places are read. All carry the gradient.
    """
    picked_RH = hidden_SH.index_select(0, laid.at_R)
    columns = _distributions(model, picked_RH, laid.target_R, wanted, ref_states_RH, reference)
    return {name: in_place(laid, value_R) for name, value_R in zip(("logps", *sorted(wanted)), columns, strict=True)}


def hidden(model: Any, laid: Layout) -> Tensor:
    """The last layer's states of all sequences, end to end (N * S, H)."""
    return model.get_decoder()(input_ids=laid.ids_NS, use_cache=False).last_hidden_state.flatten(0, 1)


def in_place(laid: Layout, value_R: Tensor) -> Tensor:
    """Values of response tokens as (N, T), 0 where masked."""
    n, t = laid.mask_NT.shape
    if laid.kept_R is not None:
        value_R = torch.where(laid.kept_R, value_R, 0.0)
    return torch.zeros(n * t, dtype=value_R.dtype, device=value_R.device).index_put((laid.cell_R,), value_R).view(n, t)


def head(model: Any) -> Callable[[Tensor], Tensor]:
    """From hidden states (R, H) to the model's own logits (R, V), in float32 or better."""
    embeddings, adjust = model.get_output_embeddings(), _adjustment(model.config)

    def logits(picked_RH: Tensor) -> Tensor:
        logits_RV = adjust(embeddings(picked_RH))
        return logits_RV.float() if logits_RV.dtype.itemsize < 4 else logits_RV

    return logits


def _distributions(
    model: Any, picked_RH: Tensor, target_R: Tensor, wanted: frozenset[str], ref_states_RH: Tensor | None, reference: Any
) -> tuple[Tensor, ...]:
    """Log-probabilities of the targets, then what is wanted in alphabetical order, (R,) each."""
    logits, theirs = head(model), None if reference is None else head(reference)
    unread_RH = picked_RH.detach() if ref_states_RH is None else ref_states_RH

    def chunk(part_RH: Tensor, ids_R: Tensor, ref_RH: Tensor) -> tuple[Tensor, ...]:
        logits_RV = logits(part_RH)
        if not wanted:  # without a tensor of all log-probabilities
            return (logits_RV.gather(1, ids_R[:, None])[:, 0] - logits_RV.logsumexp(-1),)
        logps_RV = torch.log_softmax(logits_RV, -1)
        found = {"log_sum_sq": lambda: torch.logsumexp(2 * logps_RV, -1)}
        if theirs is not None:
            ref_RV = torch.log_softmax(theirs(ref_RH), -1)
            found["token_kl"] = lambda: (ref_RV.exp() * (ref_RV - logps_RV)).sum(-1)
        return (logps_RV.gather(1, ids_R[:, None])[:, 0], *(found[name]() for name in sorted(wanted)))

    rows = max(1, CHUNK_LOGITS // int(model.config.get_text_config().vocab_size))
    parts = zip(picked_RH.split(rows), target_R.split(rows), unread_RH.split(rows), strict=True)
    if len(target_R) <= rows:
        return chunk(picked_RH, target_R, unread_RH)
    if not torch.is_grad_enabled():
        made = [chunk(*part) for part in parts]
    else:
        made = [checkpoint(chunk, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return tuple(torch.cat(column) for column in zip(*made, strict=True))


def _adjustment(config: Any) -> Any:
    """What a model family does to its logits after the output layer."""
    text = config.get_text_config()
    cap = getattr(text, "final_logit_softcapping", None)
    if cap:
        return lambda logits: torch.tanh(logits / cap) * cap
    if scale := getattr(text, "logit_scale", None):
        return lambda logits: logits * scale
    if divisor := getattr(text, "logits_scaling", None):
        return lambda logits: logits / divisor
    if factor := getattr(text, "lm_head_multiplier", None):
        return lambda logits: logits * factor
    return lambda logits: logits


def sequence_logps(model: Any, sequences: list[list[int]]) -> list[list[float]]:
    """Log-probability of each token but the first of each sequence."""
    device = str(next(model.parameters()).device)
    lengths_N = np.asarray([len(ids) for ids in sequences])
    tokens_V = np.concatenate([np.asarray(ids, np.int64) for ids in sequences])
    laid = layout(tokens_V, np.cumsum(lengths_N) - lengths_N, np.ones_like(lengths_N), lengths_N - 1, device)
    with torch.inference_mode():
        found_NT = response_logps(model, laid).double().tolist()
    return [values[: length - 1] for values, length in zip(found_NT, lengths_N.tolist(), strict=True)]


def check(model: Any) -> None:
    """Refuse a model whose own logits are not what this forward makes of them (a family with an unknown last step)."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    sequences = canary.sequences(vocabulary, count=2, length=8)
    gap = canary.difference(canary.measure(model, sequences), sequence_logps(model, sequences))
    if gap > AGREE[next(model.parameters()).dtype]:
        raise Refusal(
            f"model: {type(model).__name__} does something to its logits that models/forward.py does not know "
            f"(log-probabilities differ by {gap:.3g}); teach it there, in `_adjustment`"
        )


def dropout_off(model: Any) -> None:
    """Make the forward in training the forward in inference, bit for bit."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    model.eval()


def load(model: Model, dtype: str, device: str) -> Any:
    """The causal language model, without dropout, its forward checked. Raises Refusal if it cannot be loaded."""
    weights.check_device(device)
    loaded = read(model, dtype)
    loaded.to(device)
    check(loaded)
    return loaded


def read(model: Model, dtype: str) -> Any:
    """The causal language model, without dropout."""
    loaded = weights.causal_lm(model, dtype)
    dropout_off(loaded)
    return loaded


@contextmanager
def opened(model: Model, dtype: str, device: str) -> Iterator[Any]:
    """The loaded model for as long as the block lasts."""
    loaded = load(model, dtype, device).requires_grad_(False)
    try:
        yield loaded
    finally:
        del loaded
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def checkpoint_activations(model: Any) -> None:
    """Compute activations again in the backward pass."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()  # transformers checkpoints in training mode alone; dropout stays off
