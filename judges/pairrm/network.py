"""The forward pass of PairRM on transformers' DeBERTa-v2, batched over the comparisons of many prompts.

Input of one comparison: [CLS] <|source|> prompt [SEP] [CLS] <|candidate1|> A [SEP] [CLS] <|candidate2|> B [SEP].
The hidden states at the three markers meet in one head; the logit is head(source, A) - head(source, B).
Knows nothing of scores or win rates. Legend: B comparisons, T tokens, H hidden size.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2Model

from judges.pairrm import disentangled
from models import Model, kinds, weights
from models.batching import by_length
from pipeline.errors import Refusal

SOURCE, FIRST, SECOND, CANDIDATE = MARKERS = ("<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>")


class PairRM(nn.Module):
    """Encoder and head, under the parameter names of the published checkpoint."""

    def __init__(self, config: DebertaV2Config, n_tasks: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = nn.Sequential(nn.Identity(), nn.Linear(2 * width, width), nn.Tanh(), nn.Identity(), nn.Linear(width, n_tasks))

    def forward(self, ids_BT: Tensor, mask_BT: Tensor, markers_B3: Tensor) -> Tensor:  # noqa: N803 - shape suffixes
        """Logits (B,) of the first candidate against the second, given the places of the three markers."""
        hidden_BTH = self.pretrained_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state  # noqa: N806
        rows = torch.arange(len(ids_BT), device=ids_BT.device)
        source_BH, first_BH, second_BH = (hidden_BTH[rows, markers_B3[:, i]] for i in range(3))  # noqa: N806
        left = self.head_layer(torch.cat([source_BH, first_BH], -1))
        right = self.head_layer(torch.cat([source_BH, second_BH], -1))
        return (left - right).mean(-1)


@dataclass(frozen=True)
class Lengths:
    """Token budget of one comparison."""

    source: int
    total: int


@dataclass(frozen=True)
class Loaded:
    model: PairRM
    tokenizer: Any
    markers: dict[str, int]
    device: str


@dataclass(frozen=True)
class _Comparison:
    group: int
    first: int
    second: int
    length: int


@dataclass(frozen=True)
class _Encoded:
    """One group: the prompt's tokens, those of each different text (marked as a first candidate), and which text each candidate is."""

    source: list[int]
    texts: list[list[int]]
    of_candidate: list[int]


@contextmanager
def load(model: Model, device: str, dtype: str) -> Iterator[Loaded]:
    """The model, its folder in the layout of `llm-blender/PairRM-hf`, in evaluation mode; freed when the block ends."""
    folder = weights.folder_of(model)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise Refusal(f"{folder}: has no config.json; name a folder in the layout of llm-blender/PairRM-hf")
    settings: dict[str, Any] = json.loads(config_path.read_text())
    missing = [key for key in kinds.RANKER_FIELDS if key not in settings]
    if missing:
        raise Refusal(f"{config_path}: lacks {', '.join(missing)}, so this is no PairRM; name a folder like llm-blender/PairRM-hf")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    markers = {marker: int(settings[key]) for marker, key in zip(MARKERS, kinds.RANKER_FIELDS[1:], strict=True)}
    for marker, token in markers.items():
        if tokenizer.convert_tokens_to_ids(marker) != token:
            raise Refusal(
                f"{folder}: {marker} is token {tokenizer.convert_tokens_to_ids(marker)} of the tokenizer and {token} in config.json"
            )
    network = PairRM(DebertaV2Config.from_pretrained(folder, local_files_only=True), int(settings["n_tasks"]))
    absent, unexpected = network.load_state_dict(_weights(folder), strict=False)
    unexpected = [name for name in unexpected if not name.endswith("position_ids")]  # a buffer that older checkpoints carry
    if absent or unexpected:
        raise Refusal(
            f"{folder}: its weights do not fit PairRM (missing: {', '.join(absent[:3]) or 'none'}; unknown: "
            f"{', '.join(unexpected[:3]) or 'none'}); name a folder like llm-blender/PairRM-hf"
        )
    network.to(device=device, dtype=getattr(torch, dtype)).eval()
    disentangled.install(network.pretrained_model)
    yield Loaded(network, tokenizer, markers, device)


def _weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Refusal(f"{folder}: has no *.safetensors (other formats can run code and are not read); convert the weights")
    return {name: weight for file in files for name, weight in load_file(file).items()}


def logits(
    loaded: Loaded, prompts: Sequence[str], candidates: Sequence[Sequence[str]], lengths: Lengths, tokens_per_batch: int
) -> list[list[list[float]]]:
    """K x K directed logits of each group, i first and j second; 0 on the diagonal and between equal texts.

    Both orders of two different texts are run once, however often the texts occur. Batches hold comparisons of
    similar length, of any groups, up to `tokens_per_batch` padded tokens (at least one comparison).
    """
    encoded = _encode(loaded, prompts, candidates, lengths)
    todo = [
        _Comparison(at, a, b, len(group.source) + len(_cut(group, a, lengths)) + len(_cut(group, b, lengths)))
        for at, group in enumerate(encoded)
        for a in range(len(group.texts))
        for b in range(len(group.texts))
        if a != b
    ]
    found: dict[tuple[int, int, int], float] = {}
    for some in by_length([each.length for each in todo], tokens_per_batch):
        batch = [todo[at] for at in some]
        for comparison, logit in zip(batch, _run(loaded, encoded, batch, lengths), strict=True):
            found[comparison.group, comparison.first, comparison.second] = logit
    return [[[found.get((at, a, b), 0.0) for b in group.of_candidate] for a in group.of_candidate] for at, group in enumerate(encoded)]


def _encode(loaded: Loaded, prompts: Sequence[str], candidates: Sequence[Sequence[str]], lengths: Lengths) -> list[_Encoded]:
    """Tokenise each text once; the marker of a first candidate is exchanged for that of a second one later."""
    special = [*loaded.tokenizer.all_special_tokens, *MARKERS]

    def clean(text: str) -> str:
        # A response that spells out a marker or [SEP] must not be able to end itself or pose as its rival.
        for token in special:
            text = text.replace(token, " ")
        return text

    sources = [clean(prompt) for prompt in prompts]
    texts = [list(dict.fromkeys(clean(text) for text in group)) for group in candidates]
    flat = [SOURCE + text for text in sources] + [FIRST + text for group in texts for text in group]
    ids = iter(loaded.tokenizer(flat)["input_ids"] if flat else [])
    encoded_sources = [_truncate(next(ids), lengths.source) for _ in sources]
    return [
        _Encoded(source, [next(ids) for _ in group], [group.index(clean(text)) for text in original])
        for source, group, original in zip(encoded_sources, texts, candidates, strict=True)
    ]


def _truncate(ids: list[int], length: int) -> list[int]:
    """Cut on the right, but for the closing [SEP]."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def _cut(group: _Encoded, text: int, lengths: Lengths) -> list[int]:
    """A candidate within its half of what the prompt leaves of the budget."""
    return _truncate(group.texts[text], (lengths.total - len(group.source)) // 2)


def _run(loaded: Loaded, encoded: Sequence[_Encoded], batch: list[_Comparison], lengths: Lengths) -> list[float]:
    """The logits of one batch, padded on the right."""
    longest = batch[0].length
    pad = loaded.tokenizer.pad_token_id
    rows: list[list[int]] = []
    places: list[tuple[int, int, int]] = []
    for each in batch:
        group = encoded[each.group]
        first, second = _cut(group, each.first, lengths), list(_cut(group, each.second, lengths))
        mark = second.index(loaded.markers[FIRST])
        second[mark] = loaded.markers[SECOND]
        before = len(group.source)
        places.append((group.source.index(loaded.markers[SOURCE]), before + mark, before + len(first) + mark))
        rows.append([*group.source, *first, *second] + [pad] * (longest - each.length))
    ids_BT = torch.tensor(rows, device=loaded.device)  # noqa: N806
    lengths_B1 = torch.tensor([[each.length] for each in batch], device=loaded.device)  # noqa: N806
    mask_BT = (torch.arange(longest, device=loaded.device)[None] < lengths_B1).long()  # noqa: N806
    with torch.inference_mode():
        return loaded.model(ids_BT, mask_BT, torch.tensor(places, device=loaded.device)).float().tolist()
