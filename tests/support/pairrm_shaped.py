"""A random model in the layout of `llm-blender/PairRM-hf`, made on the spot, and the plainest way to run one.

`reference_logit` follows the published description (arXiv:2306.02561 and the model card) one comparison at a
time, on transformers' own attention: no batch, no padding, no cache. Tests hold the judge to it; the benchmark
measures the judge against it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from string import printable

MARKERS = ("<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>")
SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")


def pairrm_shaped(folder: Path, *, hidden_size: int = 32, layers: int = 2, buckets: int = 16, seed: int = 0, words: bool = False) -> Path:
    """Save encoder, head and tokenizer to `folder`. Position embeddings are wide, so that a mistake in them shows."""
    import torch
    from safetensors.torch import save_file
    from transformers import DebertaV2Config, DebertaV2Model

    tokenizer = _tokenizer(words)
    config = DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=2 * hidden_size, num_hidden_layers=layers,
        num_attention_heads=max(2, hidden_size // 64), max_position_embeddings=64, relative_attention=True, position_buckets=buckets,
        pos_att_type=["p2c", "c2p"], share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = DebertaV2Model(config)
        torch.nn.init.normal_(encoder.encoder.rel_embeddings.weight)
        first, last = torch.nn.Linear(2 * hidden_size, hidden_size), torch.nn.Linear(hidden_size, 1)
        torch.nn.init.normal_(last.weight)
    weights = {f"pretrained_model.{name}": weight.clone() for name, weight in encoder.state_dict().items()}
    for at, layer in (("1", first), ("4", last)):
        weights |= {f"head_layer.{at}.{name}": weight.clone() for name, weight in layer.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    ids = dict(zip(("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id", "cand_prefix_id"), MARKERS, strict=True))
    extra = {name: tokenizer.convert_tokens_to_ids(marker) for name, marker in ids.items()}
    body = {**config.to_dict(), **extra, "n_tasks": 1, "drop_out": 0.05, "sep_token_id": tokenizer.sep_token_id}
    (folder / "config.json").write_text(json.dumps(body))
    tokenizer.save_pretrained(folder)
    return folder


def reference(folder: Path, *, source_max_length: int = 1224, total_max_length: int = 2048) -> Callable[[str, str, str], float]:
    """A function (prompt, first, second) -> logit that runs one comparison alone, as the model card does."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, DebertaV2Config, DebertaV2Model

    tokenizer = AutoTokenizer.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    encoder = DebertaV2Model(DebertaV2Config.from_pretrained(folder)).eval()
    encoder.load_state_dict({name.removeprefix("pretrained_model."): w for name, w in weights.items() if name.startswith("pretrained")})

    def head(vector: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(vector @ weights["head_layer.1.weight"].T + weights["head_layer.1.bias"])
        return hidden @ weights["head_layer.4.weight"].T + weights["head_layer.4.bias"]

    def logit(prompt: str, first: str, second: str) -> float:
        source = tokenizer.encode(MARKERS[0] + prompt, max_length=source_max_length, truncation=True)
        room = (total_max_length - len(source)) // 2
        a = tokenizer.encode(MARKERS[1] + first, max_length=room, truncation=True)
        b = tokenizer.encode(MARKERS[2] + second, max_length=room, truncation=True)
        ids = torch.tensor([source + a + b])
        with torch.no_grad():
            hidden = encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        at = [(ids[0] == tokenizer.convert_tokens_to_ids(marker)).nonzero()[0, 0] for marker in MARKERS[:3]]
        return float((head(torch.cat([hidden[at[0]], hidden[at[1]]])) - head(torch.cat([hidden[at[0]], hidden[at[2]]]))).mean())

    return logit


def _tokenizer(words: bool):
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [f"w{i}" for i in range(1000)] if words else list(dict.fromkeys(printable + "éß漢字"))
    vocab = {token: i for i, token in enumerate((*SPECIALS, *pieces))}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if words else pre_tokenizers.Split("", "isolated")
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    backend.add_tokens([AddedToken(token, normalized=False) for token in MARKERS])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]"
    )
