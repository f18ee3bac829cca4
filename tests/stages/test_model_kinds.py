"""`adopt` looks at what it adopts: a model that is certainly of another kind is refused in seconds, not in hours."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from models import Model
from pipeline import model as models
from pipeline.errors import Refusal
from tests.support import steps
from tests.support.gpm_shaped import gpm_shaped
from tests.support.models import tiny_llama, tiny_reward
from tests.support.pairrm_shaped import pairrm_shaped

FOLDERS = {"policy": tiny_llama, "reward": tiny_reward, "ranker": pairrm_shaped, "preference": gpm_shaped}
ALSO = {("policy", "preference"), ("reward", "value"), ("preference", "reward"), ("preference", "value")}
"""What a folder, and what it may be adopted as without being certainly wrong."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: make(tmp_path_factory.mktemp("kinds") / kind) for kind, make in FOLDERS.items()}


@pytest.mark.parametrize("called", ["policy", "reward", "value", "preference", "ranker"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_is_adopted_as_what_it_may_be(tmp_path: Path, folders, kind, called):
    path = tmp_path / "adopted"
    if kind == called or (kind, called) in ALSO:
        made = steps.build(path, "adopt", {"model": str(folders[kind]), "as": called})
        assert json.loads((made.path / "adopted.json").read_text())["kind"] == made.manifest.facts["kind"] == called
        assert models.of(made) == Model(folders[kind], None, called)
        return
    with pytest.raises(Refusal, match=rf"round-01/adopted: {folders[kind]}.*, so this is no {called}; write `as: {kind}`"):
        steps.build(path, "adopt", {"model": str(folders[kind]), "as": called})
    assert not path.exists()


def test_what_nobody_knows_is_adopted_as_whatever_it_is_called(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["OursForPreferences"]}))
    (folder / "model.safetensors").write_bytes(b"")
    for called in ("policy", "reward", "value", "preference", "ranker"):
        made = steps.build(tmp_path / called, "adopt", {"model": str(folder), "as": called})
        assert models.of(made).kind == called


def test_of_the_hub_only_the_configuration_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The hub itself is a stand-in here; what it is asked, and what is made of its answer, is not."""
    fetched = []
    siblings = [SimpleNamespace(rfilename=name, lfs=None, blob_id=name, size=3) for name in ("config.json", "model.safetensors")]

    class Hub:
        def model_info(self, repo: str, **kwargs: object) -> SimpleNamespace:
            return SimpleNamespace(sha="c0ffee", siblings=siblings)

    def download(repo: str, name: str, *, revision: str) -> str:
        fetched.append((repo, name, revision))
        path = tmp_path / name
        path.write_text(json.dumps({"architectures": ["XForSequenceClassification"], "id2label": {"0": "good"}}))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    made = steps.build(tmp_path / "judge", "adopt", {"model": "org/name", "as": "reward"})
    record = json.loads((made.path / "adopted.json").read_text())
    assert (record["from"], record["kind"], record["revision"]) == ("hub", "reward", "c0ffee")
    with pytest.raises(Refusal, match="XForSequenceClassification with 1 label, so this is no policy; write `as: reward` or `as: value`"):
        steps.build(tmp_path / "policy", "adopt", {"model": "org/name"})
    assert set(fetched) == {("org/name", "config.json", "c0ffee")}
