"""The forward pass of a reward model on transformers: one logit a chat, in batches of similar length.

Knows nothing of groups and win rates. Legend: B chats, T tokens.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from models import Model, weights
from models.batching import by_length
from models.chat import chat_ids, load_tokenizer
from models.messages import Message
from models.weights import context_of
from pipeline.errors import Refusal


@dataclass(frozen=True)
class Loaded:
    model: Any
    tokenizer: Any
    device: str


@contextmanager
def opened(model: Model, *, device: str, dtype: str) -> Generator[Loaded, None, None]:
    """The loaded reward model, in evaluation mode. Raises Refusal if it is none, or if weights are missing."""
    tokenizer = load_tokenizer(model.folder)
    # The head of a plain language model would be made up, and is refused.
    loaded = weights.whole(AutoModelForSequenceClassification, model, dtype, "reward model")
    if loaded.config.num_labels != 1:
        raise Refusal(f"{model.folder}: has {loaded.config.num_labels} labels, and a reward is one number; name a model with one label")
    loaded.to(device).eval()
    yield Loaded(loaded, tokenizer, device)


def rewards(
    loaded: Loaded, chats: Sequence[tuple[Sequence[Message], str]], max_length: int | None, tokens_per_batch: int
) -> list[float | None]:
    """The reward of each (prompt, response), None for those longer than `max_length` or the model's context.

    Batches hold chats of similar length, up to `tokens_per_batch` padded tokens (at least one chat).
    """
    limit = min(max_length or 1 << 30, context_of(loaded.model.config))
    rows = [chat_ids(loaded.tokenizer, prompt, response) for prompt, response in chats]
    found: list[float | None] = [None] * len(rows)
    lengths = [len(row) for row in rows]
    for batch in by_length(lengths, tokens_per_batch, among=(at for at, length in enumerate(lengths) if length <= limit)):
        for each, value in zip(batch, _forward(loaded, [rows[each] for each in batch]), strict=True):
            found[each] = value
    return found


def _forward(loaded: Loaded, rows: list[list[int]]) -> list[float]:
    """The logits of one batch, padded on the right."""
    longest = max(map(len, rows))
    config = loaded.model.config.get_text_config()
    own = config.pad_token_id
    pad = own if own is not None else _pad(rows)
    ids_BT = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=loaded.device)  # noqa: N806
    lengths_B1 = torch.tensor([[len(row)] for row in rows], device=loaded.device)  # noqa: N806
    mask_BT = (torch.arange(longest, device=loaded.device)[None] < lengths_B1).long()  # noqa: N806
    # Decoders read their logit at the last token that is not the padding of their config; so a model whose padding ends
    # its chats too reads it a token early, as it did in training. Without padding in the config it is the last token.
    config.pad_token_id = pad
    try:
        with torch.inference_mode():
            return loaded.model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, 0].float().tolist()
    finally:
        config.pad_token_id = own


def _pad(rows: list[list[int]]) -> int:
    """A token that ends none of the rows."""
    last = {row[-1] for row in rows}
    return next(id for id in range(len(last) + 1) if id not in last)
