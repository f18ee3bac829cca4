"""Recipes of one family beside each other: what they share is linked, what they do not is built, and both hold together."""

import pytest

from pipeline import artifact, run
from pipeline.artifact import CorruptArtifact
from pipeline.errors import Refusal
from pipeline.plan import plan
from tests.support import tiny_recipes

pytestmark = pytest.mark.real


def test_sppo_hard_beside_a_finished_sppo(tmp_path):
    """Prompts of all rounds, and round 1 up to its pairs and reference, are the same; from the policy on, all differs."""
    ended = {}
    for name in ("sppo", "sppo-hard"):
        recipe = tiny_recipes.tiny(name, 2, tmp_path / "models")
        profile = tiny_recipes.profile(tmp_path / "models").model_copy(update={"reuse": "siblings"})
        ended[name] = run.run(recipe, profile, tmp_path / name)
    steps = plan(recipe, profile)
    shared = [step.address for step in steps if step.address not in ended["sppo-hard"]]
    # What reads no other step is built in each run: its key does not hold the bytes of the file that it reads.
    roots = [step.address for step in steps if not step.reads]
    print(f"{len(steps)} steps: {len(shared)} linked, {len(ended['sppo-hard'])} built, {len(roots)} of these read no other step")
    assert set(shared) == {
        "start/samples", "round-01/batch", "round-01/candidates", "round-01/judged", "round-01/pairs", "round-01/reference",
        "round-02/batch",
    }  # fmt: skip
    for address in shared:
        for file in (tmp_path / "sppo" / address).glob("data-*.parquet"):
            assert file.samefile(tmp_path / "sppo-hard" / address / file.name)
    for name in ended:
        found = run.status(_steps(name, tmp_path), tmp_path / name, verify=True)
        assert {each.state for each in found.values()} == {"done"}
    edited = next((tmp_path / "sppo" / "round-01/pairs").glob("data-*.parquet"))
    with edited.open("r+b") as file:
        file.seek(100)
        file.write(b"\x00\xff")
    for name in ended:
        with pytest.raises(CorruptArtifact):
            artifact.read(tmp_path / name / "round-01/pairs", verify=True)
    with pytest.raises(Refusal):
        run.check(_steps("sppo-hard", tmp_path), tmp_path / "sppo-hard", verify=True)


def _steps(name, folder):
    return plan(tiny_recipes.tiny(name, 2, folder / "models"), tiny_recipes.profile(folder / "models"))
