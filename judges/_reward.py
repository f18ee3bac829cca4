"""The forward pass of a reward model on transformers: one logit a chat, in batches of similar length.

Knows nothing of groups and win rates. Legend: B chats, T tokens.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from engines import Message, _weights
from engines._chat import load_tokenizer
from engines.transformers import context_of
from pipeline.errors import Refusal


@dataclass(frozen=True)
class Loaded:
    model: Any
    tokenizer: Any
    device: str


@contextmanager
def opened(folder: Path, *, device: str, dtype: str) -> Generator[Loaded, None, None]:
    """The reward model of a folder, in evaluation mode. Raises Refusal if it is none, or if weights are missing."""
    tokenizer = load_tokenizer(folder)
    # The head of a plain language model would be made up, and is refused.
    model = _weights.whole(AutoModelForSequenceClassification, folder, dtype, "reward model")
    if model.config.num_labels != 1:
        raise Refusal(f"{folder}: has {model.config.num_labels} labels, and a reward is one number; name a model with one label")
    model.to(device).eval()
    yield Loaded(model, tokenizer, device)


def rewards(
    loaded: Loaded, chats: Sequence[tuple[Sequence[Message], str]], max_length: int | None, tokens_per_batch: int
) -> list[float | None]:
    """The reward of each (prompt, response), None for those longer than `max_length` or the model's context.

    Batches hold chats of similar length, up to `tokens_per_batch` padded tokens (at least one chat).
    """
    limit = min(max_length or 1 << 30, context_of(loaded.model.config))
    rows = [chat_ids(loaded.tokenizer, prompt, response) for prompt, response in chats]
    order = sorted((at for at, ids in enumerate(rows) if len(ids) <= limit), key=lambda at: -len(rows[at]))
    found: list[float | None] = [None] * len(rows)
    at = 0
    while at < len(order):
        batch = order[at : at + max(1, tokens_per_batch // len(rows[order[at]]))]
        at += len(batch)
        for each, value in zip(batch, _forward(loaded, [rows[each] for each in batch]), strict=True):
            found[each] = value
    return found


def chat_ids(tokenizer: Any, prompt: Sequence[Message], response: str | None = None) -> list[int]:
    """The chat as the model's template writes it, with at most one BOS; of the prompt alone without a response.

    Nobody in it can spell a control token.
    """
    said = [{"role": m["role"], "content": _plain(tokenizer, m["content"])} for m in prompt]
    chat = said if response is None else [*said, {"role": "assistant", "content": _plain(tokenizer, response)}]
    ids = list(tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"])
    bos = tokenizer.bos_token_id
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def _plain(tokenizer: Any, text: str) -> str:
    known = getattr(tokenizer, "_rematch_controls", None)  # asking the tokenizer takes a while, and chats are many
    if known is None:
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        known = tokenizer._rematch_controls = sorted(added.union(tokenizer.all_special_tokens), key=lambda token: -len(token))
    for token in known:
        text = text.replace(token, " ")
    return text


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
