"""What a model artifact is: a Hugging Face folder itself, or a record of one that lives elsewhere, be it behind an endpoint."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import Artifact
from pipeline.errors import Refusal

ADOPTED = "adopted.json"
CANARY = "canary.json"


@dataclass(frozen=True)
class Endpoint:
    """A model that can be asked over HTTP and not loaded. Where it is asked is the profile's."""

    name: str
    """What the endpoint calls it."""
    tokenizer: Path | None
    """A folder with its tokenizer and chat template; None: no token ids are known."""


def endpoint(path: Path) -> Endpoint | None:
    """The endpoint that the model artifact at `path` names, or None if it is no such artifact."""
    if not (path / ADOPTED).exists():
        return None
    record = json.loads((path / ADOPTED).read_text())
    if record["from"] != "endpoint":
        return None
    tokenizer = Path(record["path"]) if record["path"] else None
    if tokenizer and not tokenizer.is_dir():
        raise Refusal(f"{path}: the tokenizer folder {tokenizer} that it adopted is gone; put it back, or adopt another")
    return Endpoint(record["name"], tokenizer)


def folder(model: Artifact) -> Path:
    """The Hugging Face folder of a model artifact; a hub model comes from the local cache, at its pinned revision."""
    record_path = model.path / ADOPTED
    if not record_path.exists():
        return model.path
    record = json.loads(record_path.read_text())
    if record["from"] == "endpoint":
        raise Refusal(
            f"{model.path}: is the model '{record['name']}' behind an endpoint, which has no weights here; read a model with weights, "
            "or, to ask it for text, set an engine that calls endpoints for this node in the profile's overrides"
        )
    if record["from"] == "folder":
        path = Path(record["path"])
        if not path.is_dir():
            raise Refusal(f"{model.path}: the model folder {path} that it adopted is gone; put it back, or adopt another")
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(record["repo"], revision=record["revision"]))
