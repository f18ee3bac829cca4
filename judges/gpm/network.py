"""The forward pass of a General Preference Model: one embedding a response; who beats whom is algebra on them.

Knows nothing of groups and win rates. Loading and input follow the published example of inference (arXiv:2410.02197;
the training code beside it gates otherwise, and cannot run), but for a second BOS, which that writes where the template
writes one. The gate is read at the last token of the prompt, before any token that opens the answer.
Legend: B chats, T tokens, K responses, D the width of an embedding (even), H hidden size.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModel

from models import Model, kinds, weights
from models.batching import by_length
from models.chat import chat_ids, load_tokenizer
from models.messages import Message
from models.weights import context_of
from pipeline.errors import Refusal

VALUE, PROMPT = HEADS = (kinds.PREFERENCE_HEAD, "prompt_head.weight")


@dataclass(frozen=True)
class Loaded:
    model: Any
    tokenizer: Any
    device: str
    value_DH: Tensor
    """From the hidden state to the embedding."""
    prompt_CH: Tensor | None
    """From the prompt's hidden state to the weight of each of the D/2 blocks. None: all weigh 1."""


@dataclass(frozen=True)
class Embedded:
    """One response."""

    vector_D: Tensor
    """Of norm 1, on the CPU, in float32."""
    gate_C: Tensor | None
    """What its prompt makes of the blocks; sums to 1."""
    cut: bool
    """Whether its end was not read."""


def preference(vectors: Tensor, gate: Tensor | None = None) -> Tensor:
    """s(i > j) for vectors (..., K, D): the sum over blocks of gate * (v_i[even] v_j[odd] - v_i[odd] v_j[even]); gate (..., D/2).

    Exactly antisymmetric. Without a gate every block weighs 1.
    """
    even, odd = vectors[..., 0::2], vectors[..., 1::2]
    if gate is not None:
        even = even * gate[..., None, :]
    half = even @ odd.transpose(-1, -2)
    return half - half.transpose(-1, -2)


@contextmanager
def opened(model: Model, *, device: str, dtype: str) -> Generator[Loaded, None, None]:
    """The loaded model, in evaluation mode. Raises Refusal if it is no General Preference Model, or not whole."""
    folder = weights.folder_of(model)
    tokenizer = load_tokenizer(folder)
    heads = _heads(folder)
    if VALUE not in heads or len(heads[VALUE]) % 2:
        found = f"of width {len(heads[VALUE])}" if VALUE in heads else "missing"
        raise Refusal(f"{folder}: its {VALUE} is {found}, and a General Preference Model has one of even width; name such a model")
    if PROMPT in heads and 2 * len(heads[PROMPT]) != len(heads[VALUE]):
        raise Refusal(f"{folder}: its {PROMPT} has {len(heads[PROMPT])} rows for {len(heads[VALUE]) // 2} blocks; name a whole model")
    if tokenizer.eos_token_id is None:
        raise Refusal(f"{folder}: its tokenizer has no eos_token, at which an embedding is read; set one in tokenizer_config.json")
    loaded = weights.whole(AutoModel, model, dtype, "General Preference Model")
    loaded.to(device).eval()
    heads = {name: weight.float().to(device) for name, weight in heads.items()}
    yield Loaded(loaded, tokenizer, device, heads[VALUE], heads.get(PROMPT))


def _heads(folder: Path) -> dict[str, Tensor]:
    """The two heads, from whichever files hold them."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in HEADS if name in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError) as error:
            raise Refusal(f"{path}: cannot be read as safetensors ({error}); fetch it again") from error
    return found


def embeddings(loaded: Loaded, chats: Sequence[tuple[Sequence[Message], str]], max_length: int, tokens_per_batch: int) -> list[Embedded]:
    """The embedding of each (prompt, response), each computed once.

    A chat beyond `max_length` tokens or the model's context is cut on the right. Batches hold chats of similar length,
    up to `tokens_per_batch` padded tokens (at least one chat).
    """
    limit = min(max_length, context_of(loaded.model.config))
    whole = [chat_ids(loaded.tokenizer, prompt, response) for prompt, response in chats]
    # The last token becomes the end of the text, whatever stood there: so the model was trained.
    rows = [[*ids[:limit][:-1], loaded.tokenizer.eos_token_id] for ids in whole]
    ends = [
        0 if loaded.prompt_CH is None else min(len(chat_ids(loaded.tokenizer, prompt)), len(row)) - 1
        for (prompt, _), row in zip(chats, rows, strict=True)
    ]
    found: dict[int, Embedded] = {}
    for batch in by_length([len(row) for row in rows], tokens_per_batch):
        vectors_BD, gates_BC = _forward(loaded, [rows[each] for each in batch], [ends[each] for each in batch])
        for i, each in enumerate(batch):
            found[each] = Embedded(vectors_BD[i], None if gates_BC is None else gates_BC[i], len(whole[each]) > limit)
    return [found[each] for each in range(len(rows))]


def _forward(loaded: Loaded, rows: list[list[int]], ends: list[int]) -> tuple[Tensor, Tensor | None]:
    """Embeddings (B, D) at the last tokens and gates (B, D/2) at the prompts' ends, of one batch padded on the right."""
    longest = max(map(len, rows))
    ids_BT = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=loaded.device)
    last_B = torch.tensor([len(row) - 1 for row in rows], device=loaded.device)
    mask_BT = (torch.arange(longest, device=loaded.device)[None] <= last_B[:, None]).long()
    each_B = torch.arange(len(rows), device=loaded.device)
    with torch.inference_mode():
        hidden_BTH = loaded.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        vectors_BD = torch.nn.functional.normalize(hidden_BTH[each_B, last_B].float() @ loaded.value_DH.T, dim=-1)
        if loaded.prompt_CH is None:
            return vectors_BD.cpu(), None
        at_prompt_BH = hidden_BTH[each_B, torch.tensor(ends, device=loaded.device)].float()
        return vectors_BD.cpu(), torch.softmax(at_prompt_BH @ loaded.prompt_CH.T, dim=-1).cpu()
