"""Takes in a model that exists already: a Hugging Face folder, a hub repository at a pinned revision, or one behind an endpoint.

Nothing is copied. What was adopted is recorded with the digests of its files, so that a later change can be noticed. Of a
model behind an endpoint the name is all that is known; where it is asked is the profile's. `as` says what kind of model it is,
which decides who may read it; a folder that is certainly of another kind is refused, before anything else is built upon it.
"""

import json
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from models import kinds
from models.hub import unreachable
from pipeline import artifact
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.model import ADOPTED, ENDPOINT
from pipeline.plugin import Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "policy"
SEEDED = False
WEIGHTS = ".safetensors"


class Config(Settings):
    model: str | None = Field(None, min_length=1)
    """A folder on this machine, or a hub repository such as `org/name`."""
    revision: str | None = None
    """Hub only: a commit, tag or branch; it is resolved to a commit, which is what later rounds read."""
    kind: Literal["policy", "reward", "value", "preference", "ranker"] = Field("policy", alias="as")
    """What kind of model it is: `policy` writes and is trained, `reward` gives a response a number and `value` each of its tokens one,
    `preference` (a General Preference Model) and `ranker` (PairRM) compare responses. One behind an endpoint is an `endpoint`."""
    endpoint: str | None = Field(None, min_length=1)
    """Instead of `model`: what an HTTP endpoint calls its model. It can be asked by an engine for endpoints, and not be trained."""
    tokenizer: str | None = Field(None, min_length=1)
    """Endpoint only: a folder with its tokenizer and chat template, where its token ids are wanted and the endpoint gives them."""

    @model_validator(mode="after")
    def _one_place(self) -> "Config":
        if self.endpoint is None and self.model is None:
            raise ValueError("model: is required; add it, or `endpoint` for a model behind an HTTP endpoint")
        if self.endpoint is not None and (self.model is not None or self.revision is not None):
            raise ValueError("endpoint: is named beside a model or revision; keep one of them")
        if self.endpoint is not None and "kind" in self.model_fields_set:
            raise ValueError(f"as: a model behind an endpoint is asked for text, and is no {self.kind}; leave it out")
        if self.tokenizer is not None and self.endpoint is None:
            raise ValueError("tokenizer: a model with a folder brings its own; leave it out")
        return self


def makes(config: Config) -> str:
    """What kind of model it is."""
    return config.kind if config.endpoint is None else ENDPOINT


def run(config: Config, tools: Tools) -> Facts:
    """Facts: where from, what kind of model, number and bytes of the files."""
    if config.endpoint is not None:
        record = _endpoint(config.endpoint, config.tokenizer)
        artifact.write_file(tools.out / ADOPTED, json.dumps(record, indent=2, sort_keys=True).encode())
        return {name: record[name] for name in ("from", "name", "path")}
    assert config.model is not None
    path = Path(config.model).expanduser()
    if path.is_dir():
        record = _folder(path.resolve(), config, tools.address)
    elif config.model.startswith(("/", ".", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+|[\w-]+", config.model):
        raise Refusal(f"{tools.address}: there is no model folder {path}; check the path, or name a hub repository as 'org/name'")
    else:
        record = _hub(config.model, config, tools.address)
    artifact.write_file(tools.out / ADOPTED, json.dumps(record, indent=2, sort_keys=True).encode())
    told = {name: record[name] for name in ("from", "kind", "path", "repo", "revision") if name in record}
    return {**told, "files": len(record["files"]), "bytes": record["bytes"]}


def _folder(path: Path, config: Config, address: str) -> Facts:
    if config.revision is not None:
        raise Refusal(f"revision: {config.revision!r} says nothing about the folder {path}; leave it out")
    if not (path / "config.json").is_file():
        raise Refusal(f"{path}: has no config.json, so it is not a Hugging Face model folder; name the folder that holds one")
    files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    if not any(each.name.endswith(WEIGHTS) for each in files):
        raise Refusal(
            f"{path}: has no weights in safetensors, and pickled weights are not read; save the model again with `save_pretrained`"
        )
    _agree(config.kind, kinds.of_folder(path), address)
    return {
        "from": "folder",
        "kind": config.kind,
        "path": str(path),
        "files": {each.name: artifact.digest_of(each) for each in files},
        "bytes": sum(each.stat().st_size for each in files),
    }


def _endpoint(name: str, tokenizer: str | None) -> Facts:
    if tokenizer is None:
        return {"from": ENDPOINT, "name": name, "path": None, "files": {}}
    path = Path(tokenizer).expanduser().resolve()
    if not (path / "tokenizer.json").is_file():
        raise Refusal(f"tokenizer: {path} has no tokenizer.json; name the folder of a fast tokenizer, or leave it out")
    files = sorted(each for each in path.iterdir() if each.suffix in (".json", ".jinja") and not each.name.startswith("."))
    return {"from": ENDPOINT, "name": name, "path": str(path), "files": {each.name: artifact.digest_of(each) for each in files}}


def _hub(repo: str, config: Config, address: str) -> Facts:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    where = f"{repo}@{config.revision or 'main'}"
    try:
        info = HfApi().model_info(repo, revision=config.revision, files_metadata=True)
        files = {each.rfilename: (each.lfs.sha256 if each.lfs else each.blob_id) for each in info.siblings or []}
        if "config.json" not in files or not any(name.endswith(WEIGHTS) for name in files):
            raise Refusal(f"{address}: {where} has no config.json or no weights in safetensors; adopt another repository or revision")
        configuration = Path(hf_hub_download(repo, "config.json", revision=info.sha))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise Refusal(f"{address}: the hub has no {where} ({_first(error)}), or it needs a token; check the name, or log in") from error
    except (OfflineModeIsEnabled, *unreachable()) as error:
        raise Refusal(f"{address}: the hub cannot be asked for {where} ({_first(error)}); adopt a local folder instead") from error
    _agree(config.kind, kinds.of_config(configuration), address)
    # Digests here are the hub's own: SHA-256 of large files, git's hash of small ones.
    return {
        "from": "hub",
        "kind": config.kind,
        "repo": repo,
        "revision": info.sha,
        "files": files,
        "bytes": sum(each.size or 0 for each in info.siblings or []),
    }


def _agree(kind: str, told: kinds.Told | None, address: str) -> None:
    """Raises Refusal if a model says that it is of another kind than it is adopted as."""
    if told is None or kind in told[1]:
        return
    others = " or ".join(f"`as: {other}`" for other in told[1])
    raise Refusal(f"{address}: {told[0]}, so this is no {kind}; write {others} if that is what it is, or adopt another model")


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
