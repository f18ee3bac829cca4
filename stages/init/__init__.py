"""Makes a small model with random weights and its tokenizer, from a config: for demos, tests and learning problems.

Weights are drawn from the step's seed by the model class's own initialisation (transformers).
"""

from typing import Any

from pydantic import Field, field_validator

from pipeline.artifact import Facts
from pipeline.plugin import Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "policy"


class Config(Settings):
    model: dict[str, Any]
    """`model_type` (such as llama) and the fields of its transformers config; the vocabulary's size is the tokenizer's."""
    alphabet: str | None = Field(None, min_length=1)
    """Characters that are one token each, others are unknown. None: the 256 bytes, which can write any text."""
    bos: bool = False
    """Whether a conversation opens with a token of its own."""

    @field_validator("model")
    @classmethod
    def _names_its_type(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(value.get("model_type"), str):
            raise ValueError("needs a 'model_type', such as llama, and the fields of that transformers config")
        taken = sorted({"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"} & set(value))
        if taken:
            raise ValueError(f"{', '.join(taken)}: the tokenizer decides; leave out")
        return value


def run(config: Config, tools: Tools) -> Facts:
    """Facts: parameters, vocabulary, architecture."""
    from stages.init import blank

    return blank.make(config.model, config.alphabet, config.bos, tools.seed, tools.out)
