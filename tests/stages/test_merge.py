"""merge: extrapolation and averages of checkpoints, a piece at a time, in the layout of the first."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines import transformers as engine
from models import Model, canary
from models.chat import fingerprint, load_tokenizer
from pipeline.artifact import Artifact, digest_of
from pipeline.errors import Refusal
from stages import merge
from tests.support import steps
from tests.support.models import tiny_llama

Weights = dict[str, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Three models of one shape; `tied` share their embeddings, `short` has another shape, `other` another tokenizer."""
    place = tmp_path_factory.mktemp("models")
    made = {name: tiny_llama(place / name, seed=seed) for name, seed in (("a", 1), ("b", 2), ("c", 3))}
    made |= {f"tied_{name}": tiny_llama(place / f"tied_{name}", seed=seed, tied=True) for name, seed in (("a", 1), ("b", 2))}
    made["short"] = tiny_llama(place / "short", layers=1, seed=4)
    made["other"] = tiny_llama(place / "other", bos=True, seed=5)
    return {name: steps.folder(path) for name, path in made.items()}


def weights(folder: Path) -> Weights:
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def built(path: Path, model: Artifact, previous: Artifact, **settings: Any) -> Artifact:
    return steps.build(path, "merge", settings, {"model": model, "previous": previous})


def files(made: Artifact) -> dict[str, str]:
    return {each.name: digest_of(each) for each in made.path.glob("*") if each.name not in ("manifest.json", "canary.json")}


def copied(path: Path, source: Artifact, change: Any, shard_size: str | None = None) -> Artifact:
    """The same model with other weights: `change` gets them by name and changes them in place."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    path.mkdir()
    for file in source.path.iterdir():
        if file.name not in ("manifest.json", "model.safetensors"):
            (path / file.name).write_bytes(file.read_bytes())
    if shard_size:
        AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32).save_pretrained(path, max_shard_size=shard_size)
        return steps.folder(path)
    found = weights(source.path)
    change(found)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, path / "model.safetensors", metadata={"format": "pt"})
    return steps.folder(path)


def test_the_pure_function_in_numbers():
    import torch

    from stages.merge.arithmetic import average, extrapolate

    new, previous = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.08, -0.25, 0.35])
    assert extrapolate(new, previous, 0.3).tolist() == pytest.approx([0.106, -0.185, 0.285])
    assert extrapolate(new, previous, 0.0).tolist() == new.tolist()
    assert extrapolate(new, previous, 1.0).tolist() == pytest.approx([0.12, -0.15, 0.25])
    assert average([new, previous], [3.0, 1.0]).tolist() == pytest.approx([0.095, -0.2125, 0.3125])
    # In bfloat16 the difference would be lost: 1 + 1/128 is its next number after 1.
    new, previous = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([0.9961], dtype=torch.bfloat16)
    assert extrapolate(new, previous, 1.0).dtype == torch.bfloat16 and extrapolate(new, previous, 2.0).item() == 1.0078125
    assert extrapolate(torch.tensor([1 / 3], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64), 1.0).item() == 2 / 3


def test_every_weight_is_extrapolated_and_the_folder_is_a_model(tmp_path: Path, models: dict[str, Artifact]) -> None:
    made = built(tmp_path / "policy", models["a"], models["b"], alpha=0.25)
    new, previous, found = (weights(each.path) for each in (models["a"], models["b"], made))
    assert found.keys() == new.keys() and "lm_head.weight" in found
    for name, tensor in found.items():
        assert (tensor - (new[name] + 0.25 * (new[name] - previous[name]))).abs().max() < 1e-6, name
    facts = made.manifest.facts
    assert (
        facts["tensors"] == len(new) and facts["parameters"] == sum(each.numel() for each in new.values()) and facts["copied_tensors"] == 0
    )
    norm = sum(float(each.double().square().sum()) for each in new.values()) ** 0.5
    moved = sum(float((found[name] - new[name]).double().square().sum()) for name in new) ** 0.5
    assert facts["relative_change"] == pytest.approx(moved / norm, rel=1e-6)
    assert fingerprint(load_tokenizer(made.path)) == fingerprint(load_tokenizer(models["a"].path))
    # The engine checks the canary, which is that of the merged weights.
    assert canary.read(made.path) is not None
    with engine.open(engine.Config(threads=1), Model(made.path), seed=0) as opened:
        assert opened.tokenizer
    with pytest.raises(canary.WrongWeights):
        (models["b"].path / "canary.json").write_bytes((made.path / "canary.json").read_bytes())
        try:
            with engine.open(engine.Config(threads=1), Model(models["b"].path), seed=0):
                pass
        finally:
            (models["b"].path / "canary.json").unlink()


@pytest.mark.parametrize("kind", ["", "tied_"])
def test_alpha_zero_is_the_model_itself_byte_for_byte(tmp_path: Path, models: dict[str, Artifact], kind: str) -> None:
    made = built(tmp_path / "policy", models[f"{kind}a"], models[f"{kind}b"], alpha=0.0)
    assert files(made) == files(models[f"{kind}a"]) and made.manifest.facts["relative_change"] == 0


def test_negative_zeros_survive_alpha_zero(tmp_path: Path, models: dict[str, Artifact]) -> None:
    signed = copied(tmp_path / "signed", models["a"], lambda found: found["model.norm.weight"].fill_(-0.0))
    assert files(built(tmp_path / "policy", signed, models["b"], alpha=0.0))["model.safetensors"] == files(signed)["model.safetensors"]


def test_tied_weights_are_merged_once(tmp_path: Path, models: dict[str, Artifact]) -> None:
    made = built(tmp_path / "policy", models["tied_a"], models["tied_b"], alpha=1.0)
    assert "lm_head.weight" not in weights(made.path)
    assert made.manifest.facts["tensors"] == len(weights(models["a"].path)) - 1
    with engine.open(engine.Config(threads=1), Model(made.path), seed=0) as opened:
        table = opened._model.get_input_embeddings().weight
        assert opened._model.get_output_embeddings().weight.data_ptr() == table.data_ptr()


def test_shards_keep_their_layout_and_pieces_do_not_show(
    tmp_path: Path, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.merge import tensors

    shards = copied(tmp_path / "shards", models["a"], None, shard_size="30KB")
    names = sorted(each.name for each in shards.path.glob("*.safetensors"))
    assert len(names) > 1
    whole = built(tmp_path / "whole", models["a"], models["b"])
    monkeypatch.setattr(tensors, "PIECE", 100)
    made = built(tmp_path / "policy", shards, models["b"])
    assert sorted(each.name for each in made.path.glob("*.safetensors")) == names
    assert (made.path / tensors.INDEX).read_bytes() == (shards.path / tensors.INDEX).read_bytes()
    assert all(tensor.equal(weights(whole.path)[name]) for name, tensor in weights(made.path).items())
    assert made.manifest.facts["relative_change"] == pytest.approx(whole.manifest.facts["relative_change"], rel=1e-9)


def test_whole_numbers_are_copied_and_narrow_floats_are_cast_back(tmp_path: Path, models: dict[str, Artifact]) -> None:
    import torch

    from stages.merge import arithmetic, tensors

    def some(fill: float, count: int) -> Weights:
        return {
            "half": torch.full((2, 3), fill, dtype=torch.bfloat16), "steps": torch.tensor([count, 7]),
            "on": torch.tensor([count > 3, False]), "one": torch.tensor(fill), "none": torch.zeros(0, 4),
        }  # fmt: skip

    from safetensors.torch import save_file

    folders = [tmp_path / "new", tmp_path / "old"]
    for folder, fill, count in zip(folders, (1.0, 0.5), (5, 1), strict=True):
        folder.mkdir()
        save_file(some(fill, count), folder / "model.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    facts = tensors.merge(folders, ["new", "old"], lambda pieces: arithmetic.extrapolate(*pieces, 0.5), out)
    found = weights(out)
    assert found["steps"].tolist() == [5, 7] and found["on"].tolist() == [True, False]
    assert found["half"].dtype == torch.bfloat16 and found["half"].flatten().tolist() == [1.25] * 6
    assert found["one"].item() == 1.25 and found["one"].shape == () and found["none"].shape == (0, 4)
    assert (facts["tensors"], facts["parameters"], facts["copied_tensors"]) == (5, 11, 2)


def test_a_previous_model_in_other_floats_is_widened(tmp_path: Path, models: dict[str, Artifact]) -> None:
    """A hub's model in bfloat16 is where the first round of a training in float32 came from."""
    import torch

    def narrow(found: Weights) -> None:
        found.update({name: tensor.to(torch.bfloat16) for name, tensor in found.items()})

    made = built(tmp_path / "policy", models["a"], copied(tmp_path / "narrow", models["b"], narrow), alpha=0.5)
    new, previous = weights(models["a"].path), weights(models["b"].path)
    for name, tensor in weights(made.path).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, new[name] + 0.5 * (new[name] - previous[name].to(torch.bfloat16).float())), name


def test_an_average_of_three_with_weights(tmp_path: Path, models: dict[str, Artifact]) -> None:
    inputs = {"model": models["a"], "others": [models["b"], models["c"]]}
    made = steps.build(tmp_path / "soup", "merge", {"how": "average", "weights": (2.0, 1.0, 1.0)}, inputs)
    parts = [weights(models[name].path) for name in "abc"]
    for name, tensor in weights(made.path).items():
        assert (tensor - (parts[0][name] / 2 + parts[1][name] / 4 + parts[2][name] / 4)).abs().max() < 1e-6
    same = steps.build(tmp_path / "same", "merge", {"how": "average"}, {"model": models["a"], "others": [models["a"]]})
    assert files(same) == files(models["a"])
    with pytest.raises(Refusal, match="round-01/odd: weights: 2 of them for 3 models"):
        steps.build(tmp_path / "odd", "merge", {"how": "average", "weights": (1.0, 1.0)}, inputs)


def test_what_does_not_belong_together_is_refused(tmp_path: Path, models: dict[str, Artifact]) -> None:
    with pytest.raises(Refusal, match=r"tensors stand in one of it and .* alone, 'model.layers.1.*; merge models that come from one"):
        built(tmp_path / "names", models["a"], models["short"])
    with pytest.raises(Refusal, match="have different tokenizers"):
        built(tmp_path / "tokenizers", models["a"], models["other"])
    wide = copied(tmp_path / "wide", models["a"], lambda found: found.update({"model.norm.weight": found["model.norm.weight"].repeat(2)}))
    with pytest.raises(Refusal, match=r"'model.norm.weight' is \[32\], and \[64\] in "):
        built(tmp_path / "shapes", models["a"], wide)
    whole = copied(tmp_path / "whole", models["a"], lambda found: found.update({"model.norm.weight": found["model.norm.weight"].int()}))
    with pytest.raises(Refusal, match="'model.norm.weight' is F32, and I32 in "):
        built(tmp_path / "dtypes", models["a"], whole)
    (wide.path / "model.safetensors").write_bytes((wide.path / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(Refusal, match="cannot be read as safetensors"):
        built(tmp_path / "torn", models["a"], wide)


def test_the_guard_on_the_change(tmp_path: Path, models: dict[str, Artifact]) -> None:
    change = built(tmp_path / "free", models["a"], models["b"]).manifest.facts["relative_change"]
    assert built(tmp_path / "within", models["a"], models["b"], max_change=1.01 * change)
    with pytest.raises(Refusal, match=f"would move by {change:.3g} of their norm, at most "):
        built(tmp_path / "beyond", models["a"], models["b"], max_change=0.99 * change)
    broken = copied(tmp_path / "broken", models["b"], lambda found: found["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(Refusal, match="would move by nan of their norm"):
        built(tmp_path / "not_finite", models["a"], broken)


def test_two_rounds_of_extrapolation_through_the_runner(tmp_path: Path) -> None:
    """The start's node is where the first round came from, and the round before's un-extrapolated model where the second did."""
    from pipeline import recipe, run
    from tests.support.core import digests, profile

    made = {"stage": "init", "model": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 64}, "alphabet": "abc"}  # fmt: skip
    body = {
        "name": "accelerated",
        "rounds": 2,
        "start": {"policy_hat": made},
        "round": {"policy_hat": made, "policy": {"stage": "merge", "model": "policy_hat", "previous": "policy_hat@prev", "alpha": 0.5}},
    }
    asked = recipe.make(body, "test")
    assert run.run(asked, profile(), tmp_path / "run")[-1] == "round-02/policy"
    hats = [weights(tmp_path / "run" / place / "policy_hat") for place in ("start", "round-01", "round-02")]
    for round, (before, now) in enumerate(zip(hats, hats[1:], strict=False), 1):
        for name, tensor in weights(tmp_path / "run" / f"round-{round:02d}" / "policy").items():
            assert (tensor - (now[name] + 0.5 * (now[name] - before[name]))).abs().max() < 1e-6
    assert run.run(asked, profile(), tmp_path / "run") == []
    run.run(asked, profile(), tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "run")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({}, "previous: is required to extrapolate"),
        ({"previous": "b", "others": ("c",)}, "others and weights belong to `how: average`"),
        ({"how": "average", "previous": "b"}, "previous and alpha belong to `how: extrapolate`"),
        ({"how": "average", "others": ("b",), "alpha": 0.5}, "previous and alpha belong to `how: extrapolate`"),
        ({"previous": "b", "alpha": -0.1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        merge.Config(model="a", **settings)
