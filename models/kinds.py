"""What kind of model a folder holds, as far as its configuration and the names of its weights tell. No weight is read.

Only what is certain counts: an architecture that is not known here may be anything.
"""

import json
from pathlib import Path
from typing import Any

from models import canary
from pipeline.errors import Refusal

RANKER_FIELDS = ("n_tasks", "source_prefix_id", "cand1_prefix_id", "cand2_prefix_id", "cand_prefix_id")
"""Of the config.json of a PairRM (layout of `llm-blender/PairRM-hf`): how many tasks, and its four markers."""
PREFERENCE_HEAD = "value_head.weight"
"""The weight that makes an embedding of a General Preference Model out of a hidden state."""
WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
Told = tuple[str, tuple[str, ...]]
"""What a folder says, and the kinds of model of which that may be true."""


def of_folder(folder: Path) -> Told | None:
    """What the folder of a model tells of its kind; None if nothing is certain."""
    measured = canary.kind(folder)
    if measured is not None:
        return f"{folder}: its canary is that of a {measured}", (measured,)
    if PREFERENCE_HEAD in _weights(folder):
        return f"{folder}: has a {PREFERENCE_HEAD}", ("preference", "reward", "value")
    return of_config(folder / "config.json")


def of_config(path: Path) -> Told | None:
    """The same by a config.json alone. Raises Refusal if it is no JSON object."""
    try:
        config: Any = json.loads(path.read_text())
    except ValueError as error:
        raise Refusal(f"{path}: is not JSON ({error}); fetch the model again") from None
    if not isinstance(config, dict):
        raise Refusal(f"{path}: holds no JSON object; fetch the model again")
    if all(name in config for name in RANKER_FIELDS):
        return f"{path}: has the fields of a PairRM ({', '.join(RANKER_FIELDS)})", ("ranker",)
    architecture = str((config.get("architectures") or [""])[0])
    if architecture.endswith(WRITERS):
        return f"{path}: says {architecture}", ("policy", "preference")  # the head of a preference model stands beside the language model
    if architecture.endswith(CLASSIFIERS):
        labels = len(config["id2label"]) if config.get("id2label") else 2  # as transformers leaves it out
        one = labels == 1
        return f"{path}: says {architecture} with {labels} label{'s' * (not one)}", ("reward", "value") if one else ("ranker", "preference")
    return None


def _weights(folder: Path) -> set[str]:
    """The names of the weights of a folder. A file that cannot be read tells none: whoever loads it says why."""
    from safetensors import SafetensorError, safe_open

    found: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                found.update(file.keys())
        except (OSError, SafetensorError):
            continue
    return found
