"""An artifact that needs another one's files: its base outlives it, and a base that is missing or changed is found everywhere."""

import json
import os
import shutil

import pytest

from pipeline import artifact, cli, recipe, rows, run
from pipeline.errors import Problems, Refusal
from tests.support.core import digests, profile, steps
from tests.support.plugins import leans

LEANS, SHOUT = "tests.support.plugins.leans", "tests.support.plugins.shout"


def body(**keep):
    """words <- one (leans) <- two (leans on both) <- whole (leans on nothing)."""
    nodes = {
        "words": {"stage": "tests.support.plugins.words", "take": 6},
        "one": {"stage": LEANS, "prompts": "words"},
        "two": {"stage": LEANS, "prompts": "one", "suffix": "?"},
        "whole": {"stage": LEANS, "prompts": "two", "merge": True},
    }
    for name, value in keep.items():
        nodes[name] = {**nodes[name], "keep": value}
    return recipe.make({"name": "lean", "rounds": 0, "start": nodes, "round": {}}, "test")


@pytest.fixture
def made(tmp_path):
    run.run(body(), profile(), tmp_path / "r")
    return tmp_path / "r"


def states(folder, **kwargs):
    return {address.split("/")[1]: each.state for address, each in run.status(steps(body()), folder, **kwargs).items()}


def test_leans_on_is_transitive_and_holds_digests(made):
    found = {name: artifact.read(made / "start" / name) for name in ("words", "one", "two", "whole")}
    words, one = (found[name].manifest.digest for name in ("words", "one"))
    assert found["two"].manifest.leans_on == {"start/one": one, "start/words": words}
    assert found["one"].manifest.leans_on == {"start/words": words} and found["whole"].manifest.leans_on == {}
    assert all(text.endswith("!?!") and text.startswith("say ") for text in leans.texts(found["whole"]))


def test_leans_on_keeps_a_base_that_is_not_kept(tmp_path):
    run.run(body(words=False, one=False), profile(), tmp_path / "r")
    assert states(tmp_path / "r", verify=True) == dict.fromkeys(("words", "one", "two", "whole"), "done"), "two is kept, and needs both"
    assert leans.texts(artifact.read(tmp_path / "r/start/two"))[0].endswith("!?")


def test_leans_on_lets_a_base_go_with_its_last_leaner(tmp_path):
    run.run(body(words=False, one=False, two=False), profile(), tmp_path / "r")
    assert states(tmp_path / "r") == {"words": "dropped", "one": "dropped", "two": "dropped", "whole": "done"}
    before = digests(tmp_path / "r")
    assert run.run(body(words=False, one=False, two=False), profile(), tmp_path / "r", start_at="start/whole") == [
        "start/words", "start/one", "start/two", "start/whole",
    ]  # fmt: skip
    assert digests(tmp_path / "r") == before


def test_leans_on_a_base_that_is_missing_dropped_or_changed_is_corrupt(made):
    words = made / "start/words"
    shutil.copytree(words, made / "aside")
    artifact.drop(artifact.read(words))
    assert states(made)["one"] == states(made, verify=True)["two"] == "corrupt"
    shutil.rmtree(words)
    assert {name: state for name, state in states(made).items()} == {
        "words": "missing",
        "one": "corrupt",
        "two": "corrupt",
        "whole": "done",
    }
    with pytest.raises(
        Problems, match="start/one: is corrupt: .*: leans on start/words, which is missing; put that back, or `rematch retire"
    ):
        run.run(body(), profile(), made)
    with pytest.raises(Refusal, match="leans on start/words, which is missing"):
        run.fork(made, made.with_name("f"), at=1, changes=[])
    assert not made.with_name("f").exists()
    step = steps(body())[0]
    with artifact.draft(words, step.key) as draft:
        rows.write(draft.out, "prompts", rows.stream(made / "aside", stop=5))
        artifact.publish(
            draft, words, makes="prompts", key=step.key, identity=step.identity, inputs={}, facts={}, provenance={}
        )  # fmt: skip
    found = run.status(steps(body()), made, verify=True)
    assert found["start/one"].state == "corrupt" and "which has other bytes than it had" in found["start/one"].why
    shutil.rmtree(words)
    os.rename(made / "aside", words)
    assert set(states(made, verify=True).values()) == {"done"}


def test_leans_on_retire_takes_the_leaners_and_fork_links_the_base(made):
    before = digests(made)
    forked, shared = run.fork(made, made.with_name("f"), at=1, changes=[])
    assert shared == ["start/words", "start/one", "start/two", "start/whole"] and run.run(forked, profile(), made.with_name("f")) == []
    data = "start/words/data-00000.parquet"
    assert os.stat(made / data).st_ino == os.stat(made.with_name("f") / data).st_ino
    assert run.retire(made, ["start/words"]) == ["start/one", "start/two", "start/words"]
    assert states(made) == {"words": "missing", "one": "missing", "two": "missing", "whole": "done"}
    assert run.run(body(), profile(), made) == ["start/words", "start/one", "start/two"] and digests(made) == before


def test_leans_on_export_refuses_what_is_nothing_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run.run(body(), profile(), tmp_path / "runs/r")
    assert cli.call(["export", "runs/r", "start/two", "--to", "x.jsonl"]) == 2
    assert "leans on start/one, start/words, and is nothing without; copy these folders together" in capsys.readouterr().err
    assert cli.call(["export", "runs/r", "start/whole", "--to", "x.jsonl"]) == 0


def test_every_flipped_bit_of_a_manifest_is_found(made):
    file = made / "start/one/manifest.json"
    clean = file.read_bytes()
    for at in range(0, len(clean), 3):
        data = bytearray(clean)
        data[at] ^= 1 << at % 8
        file.write_bytes(data)
        with pytest.raises(
            artifact.CorruptArtifact, match="manifest.json: is not as it was written, its seal does not fit; `rematch retire"
        ):
            artifact.read(file.parent)
    file.write_bytes(clean)
    artifact.drop(artifact.read(file.parent))
    assert artifact.read(file.parent).manifest.dropped, "and it is sealed again"


@pytest.mark.parametrize("form", [1, 3])
def test_another_format_is_refused(made, form):
    file = made / "start/words/manifest.json"
    told = {**json.loads(file.read_text()), "format": form}
    told.pop("seal")
    text = json.dumps({**told, "seal": ""} if form > 1 else told, indent=2).removesuffix('""\n}').encode()
    file.write_bytes(text + (artifact._end(text) if form > 1 else b""))
    with pytest.raises(Refusal, match=f"is of manifest format {form}, and this rematch reads format 2 alone; go on with the rematch that"):
        run.status(steps(body()), made)
