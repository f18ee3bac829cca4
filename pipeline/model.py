"""What a model artifact is: a Hugging Face folder itself, or a record of one that lives elsewhere, be it behind an endpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import artifact
from pipeline.artifact import Artifact
from pipeline.errors import Refusal

ADOPTED = "adopted.json"
CANARY = "canary.json"
POLICY, ENDPOINT = "policy", "endpoint"
KINDS = (POLICY, "reward", "value", "preference", "ranker", ENDPOINT)
"""What a step makes that makes a model, and what a node that reads one asks for. `policy`: a causal language model, which writes,
is scored and is trained; `reward`: one number for a response; `value`: one for each token of it; `preference`: an embedding of a
response, whose algebra says who beats whom; `ranker`: reads two responses at once; `endpoint`: writes over HTTP, without weights here."""


@dataclass(frozen=True)
class Model:
    """A model whose weights can be read here."""

    folder: Path
    """Of Hugging Face's layout: config, tokenizer and weights."""
    base: "Model | None" = None
    """What the weights lean on, for a folder that holds an adapter alone; None: they are whole."""
    kind: str = POLICY
    """One of KINDS, never `endpoint`."""


@dataclass(frozen=True)
class Endpoint:
    """A model that can be asked over HTTP and not loaded. Where it is asked is the profile's."""

    name: str
    """What the endpoint calls it."""
    tokenizer: Path | None
    """A folder with its tokenizer and chat template; None: no token ids are known."""


def endpoint(path: Path) -> Endpoint | None:
    """The endpoint that the model artifact at `path` names, or None if it is no such artifact."""
    record = _record(path)
    if record is None or record["from"] != ENDPOINT:
        return None
    tokenizer = Path(record["path"]) if record["path"] else None
    if tokenizer and not tokenizer.is_dir():
        raise Refusal(f"{path}: the tokenizer folder {tokenizer} that it adopted is gone; put it back, or adopt another")
    return Endpoint(record["name"], tokenizer)


def of(made: Artifact) -> Model:
    """The model of an artifact; one from the hub comes from the local cache, at its pinned revision. Raises Refusal for an endpoint."""
    record = _record(made.path)
    if record is None:
        base = artifact.read(made.bases[0]) if made.bases else None
        return Model(made.path, base=None if base is None else of(base), kind=made.manifest.makes)
    if record["from"] == ENDPOINT:
        raise Refusal(
            f"{made.path}: is the model '{record['name']}' behind an endpoint, which has no weights here; read a model with weights, "
            "or, to ask it for text, set an engine that calls endpoints for this node in the profile's overrides"
        )
    return Model(_adopted(made.path, record), kind=record["kind"])


def _adopted(at: Path, record: dict[str, Any]) -> Path:
    if record["from"] == "folder":
        path = Path(record["path"])
        if not path.is_dir():
            raise Refusal(f"{at}: the model folder {path} that it adopted is gone; put it back, or adopt another")
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(record["repo"], revision=record["revision"]))


def _record(path: Path) -> dict[str, Any] | None:
    """What `adopt` recorded, or None of a model that a step made."""
    return json.loads((path / ADOPTED).read_text()) if (path / ADOPTED).exists() else None
