"""The folder that a trainer leaves: weights in safetensors, the tokenizer it came with, and the canary."""

import shutil
from pathlib import Path
from typing import Any

import torch

from models import Model, forward
from models import canary as canaries

CARRIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "generation_config.json",
)
"""Copied as they are: saving a tokenizer again may change its bytes, and with them its fingerprint."""


def write(model: Any, source: Path, out: Path, device: str, state: dict[str, torch.Tensor] | None = None) -> None:
    """Save the trained `model` (or its gathered `state`) with what else `source` holds, then read it back and store its canary."""
    model.save_pretrained(out, state_dict=state)
    carry(source, out)
    canary(out, device)


def carry(source: Path, out: Path) -> None:
    """Copy the tokenizer of a model folder, and what else is not weights."""
    for name in CARRIED:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, out / name, dirs_exist_ok=True)
        elif path.is_file():
            shutil.copyfile(path, out / name)


def canary(out: Path, device: str) -> None:
    """Store the float32 log-probabilities of the fixed sequences, computed from the files as they were published."""
    try:
        _canary_on(out, device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        _canary_on(out, "cpu")


def _canary_on(out: Path, device: str) -> None:
    with forward.opened(Model(out), "float32", device) as model:
        sequences = canaries.sequences(int(model.config.get_text_config().vocab_size))
        canaries.write(out, sequences, forward.sequence_logps(model, sequences))
