"""Loads the model of a Hugging Face folder whole, or says why not.

transformers fills weights that a checkpoint lacks with random numbers and goes on; here that is a refusal. Engines,
trainers and judges load through this page.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models import Model, canary
from pipeline.errors import Refusal


def folder_of(model: Model) -> Path:
    """The folder that holds all weights of a model, for whoever loads them. Raises Refusal for an adapter, or a canary of another kind."""
    if model.base is not None:
        raise Refusal(
            f"{model.folder}: its weights lean on those of {model.base.folder}, and what reads it here takes whole ones; "
            "merge the two into one folder, or name a model that stands on its own"
        )
    canary.check_kind(model)
    return model.folder


def causal_lm(model: Model, dtype: str) -> Any:
    """The model on the CPU, in `dtype`. Raises Refusal if it cannot be loaded, or if its weights are not all there."""
    from transformers import AutoModelForCausalLM

    return whole(AutoModelForCausalLM, model, dtype, "causal language model")


def whole(auto: Any, model: Model, dtype: str, what: str) -> Any:
    """The model of one of transformers' Auto classes; `what` is what messages call it. Raises Refusal as `causal_lm` does."""
    import torch
    from safetensors import SafetensorError

    path = folder_of(model)
    try:
        with quiet():
            loaded, info = auto.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise Refusal(f"{path}: no {what} can be loaded from it ({error}); check the folder") from error
    misfits = sorted({*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])})
    if misfits:
        raise Refusal(
            f"{path}: {len(misfits)} weights of its {type(loaded).__name__} are missing or have another shape, {misfits[0]} among them; "
            "let config.json and the weights be of one model, saved whole"
        )
    return loaded


@contextmanager
def quiet() -> Generator[None]:
    """transformers without its progress bar (the run has its own) and its report on weights (what matters in it is refused)."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def check_device(device: str) -> None:
    """Raises Refusal for a GPU that torch does not see."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Refusal(f"device '{device}': torch {torch.__version__} sees no GPU here; say `cpu` in the profile, or install torch for CUDA")


def vocabulary_of(config: Any) -> int:
    """Token ids that a model has logits for; those of its tokenizer may be fewer."""
    return int(config.get_text_config().vocab_size)


def context_of(config: Any) -> int:
    """Tokens that a model was made for; without a statement in its config there is no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30
