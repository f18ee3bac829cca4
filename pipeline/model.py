"""What a model artifact is: a Hugging Face folder itself, or a record of one that lives elsewhere."""

import json
from pathlib import Path

from pipeline.artifact import Artifact
from pipeline.errors import Refusal

ADOPTED = "adopted.json"
CANARY = "canary.json"


def folder(model: Artifact) -> Path:
    """The Hugging Face folder of a model artifact; a hub model comes from the local cache, at its pinned revision."""
    record_path = model.path / ADOPTED
    if not record_path.exists():
        return model.path
    record = json.loads(record_path.read_text())
    if record["from"] == "folder":
        path = Path(record["path"])
        if not path.is_dir():
            raise Refusal(f"{model.path}: the model folder {path} that it adopted is gone; put it back, or adopt another")
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(record["repo"], revision=record["revision"]))
