"""An untrained causal language model and a tokenizer without merges."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from pipeline.artifact import Facts
from pipeline.errors import Refusal

CONTROLS = {"pad_token": "<|pad|>", "unk_token": "<|unknown|>", "bos_token": "<|begin|>", "eos_token": "<|end|>"}
ROLES = ("system", "user", "assistant")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make(settings: dict[str, Any], alphabet: str | None, bos: bool, seed: int, out: Path) -> Facts:
    """Save the model and its tokenizer to `out`. Raises Refusal if transformers does not take the settings."""
    disable_progress_bar()
    words = tokenizer(alphabet, bos)
    settings = {
        **settings,
        "vocab_size": len(words),
        **{f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("pad", "bos", "eos")},
    }
    kind = settings.pop("model_type")
    try:
        config = AutoConfig.for_model(kind, **settings)
    except (ValueError, TypeError) as error:
        raise Refusal(
            f"model: transformers makes no '{kind}' of these settings ({_short(error)}); check model_type and its fields"
        ) from error
    strangers = sorted(
        name for name in settings if name not in type(config)().to_dict() and name not in getattr(config, "attribute_map", {})
    )
    if strangers:
        raise Refusal(f"model: '{kind}' has no field {', '.join(strangers)}; see the fields of transformers' {type(config).__name__}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise Refusal(f"model: no causal language model can be made of '{kind}' ({error}); check its settings") from error
    model.save_pretrained(out)
    words.save_pretrained(out)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(words),
        "architecture": type(model).__name__,
    }


def tokenizer(alphabet: str | None, bos: bool) -> PreTrainedTokenizerFast:
    """One token for each character of `alphabet`, or for each byte; control tokens for the roles; a chat template."""
    specials = [*CONTROLS.values(), *(f"<|{role}|>" for role in ROLES)]
    if alphabet is None:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Tokenizer(models.BPE(vocab=_numbered([*specials, *letters]), merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
    else:
        vocabulary = _numbered([*specials, *sorted(set(alphabet))])
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=CONTROLS["unk_token"]))
        backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **CONTROLS)
    made.chat_template = ("<|begin|>" if bos else "") + TEMPLATE
    return made


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def _short(error: Exception) -> str:
    """Without the list of every architecture that transformers knows."""
    return str(error).partition(" Should contain one of")[0].rstrip(".")
