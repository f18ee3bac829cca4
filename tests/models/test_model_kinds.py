"""What a folder tells of its kind, and that nothing loads a model as what it is not: a canary of another kind, an adapter alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from engines import transformers
from judges.gpm import network as gpm
from judges.pairrm import network as pairrm
from judges.reward_model import network as reward_model
from models import Model, canary, forward, kinds, weights
from models.kinds import RANKER_FIELDS, of_config, of_folder
from pipeline.errors import Refusal
from pipeline.model import KINDS
from tests.support.gpm_shaped import gpm_shaped
from tests.support.models import tiny_llama, tiny_reward
from tests.support.pairrm_shaped import pairrm_shaped

ONE = {"id2label": {"0": "LABEL_0"}}
CONFIGS: list[tuple[dict[str, Any], str | None, tuple[str, ...]]] = [
    ({"architectures": ["MistralForCausalLM"]}, "says MistralForCausalLM", ("policy", "preference")),
    ({"architectures": ["GPT2LMHeadModel"]}, "says GPT2LMHeadModel", ("policy", "preference")),
    ({"architectures": ["XForSequenceClassification"], **ONE}, "says XForSequenceClassification with 1 label", ("reward", "value")),
    ({"architectures": ["XForTokenClassification"], **ONE}, "says XForTokenClassification with 1 label", ("reward", "value")),
    ({"architectures": ["XForSequenceClassification"]}, "says XForSequenceClassification with 2 labels", ("ranker", "preference")),
    (
        {"architectures": ["DebertaV2PairRM"], **dict.fromkeys(RANKER_FIELDS, 1)},
        f"has the fields of a PairRM ({', '.join(RANKER_FIELDS)})",
        ("ranker",),
    ),
    ({"architectures": ["CustomRewardModel"]}, None, ()),
    ({"architectures": None, "model_type": "deberta-v2"}, None, ()),
    ({}, None, ()),
]
"""What is in config.json, what is said of it, and the kinds that it may be."""


@pytest.mark.parametrize("config, said, may_be", CONFIGS)
def test_a_configuration_tells_what_is_certain_and_no_more(tmp_path: Path, config, said, may_be):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert of_config(path) == (None if said is None else (f"{path}: {said}", may_be))


@pytest.mark.parametrize("text, said", [("{", "is not JSON"), ("[]", "holds no JSON object")])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, text, said):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Refusal, match=rf"config.json: {said}.*; fetch the model again"):
        of_config(tmp_path / "config.json")


def test_real_folders_tell_their_kind(tmp_path: Path):
    """As their makers save them: the head of a preference model is no part of its configuration."""
    made = {
        "policy": tiny_llama(tmp_path / "policy"),
        "reward": tiny_reward(tmp_path / "reward"),
        "ranker": pairrm_shaped(tmp_path / "ranker"),
        "preference": gpm_shaped(tmp_path / "preference"),
    }
    for kind, folder in made.items():
        told = of_folder(folder)
        assert told is not None and told[1][0] == kind and set(told[1]) < set(KINDS), kind
    assert (of_folder(made["preference"]) or ("", ()))[0].endswith("has a value_head.weight")
    assert (of_folder(tiny_reward(tmp_path / "three", labels=3)) or ("", ()))[0].endswith("with 3 labels")
    canary.write(made["policy"], [[1, 2]], [[-1.0]])
    assert of_folder(made["policy"]) == (f"{made['policy']}: its canary is that of a policy", ("policy",))


LOADS: dict[str, Any] = {
    "engine": lambda model: transformers.open(transformers.Config(), model, seed=0),
    "forward": lambda model: forward.opened(model, "float32", "cpu"),
    "reward": lambda model: reward_model.opened(model, device="cpu", dtype="float32"),
    "preference": lambda model: gpm.opened(model, device="cpu", dtype="float32"),
    "ranker": lambda model: pairrm.load(model, "cpu", "float32"),
}
"""Everything that loads weights here; vLLM's engine and `merge` take their folder from `weights.folder_of` too."""


@pytest.mark.parametrize("way", LOADS)
def test_a_canary_of_another_kind_is_an_error_that_says_so(tmp_path: Path, way):
    """Of a reward model it will hold something else than log-probabilities: nothing of it is read before its kind."""
    folder = tiny_llama(tmp_path / "model")
    measured, kind = ("reward", "policy") if way in ("engine", "forward") else ("policy", way)
    (folder / "canary.json").write_text(json.dumps({"kind": measured}))
    said = f"its canary is that of a {measured}, and it is loaded as a {kind}; write `as: {measured}` where it is adopted, or name another"
    with pytest.raises(Refusal, match=said), LOADS[way](Model(folder, kind=kind)):
        raise AssertionError("opened")


def test_a_canary_says_its_kind_and_one_that_does_not_is_a_policys(tmp_path: Path):
    canary.write(tmp_path, [[1, 2]], [[-1.0]])
    body = json.loads((tmp_path / "canary.json").read_text())
    assert body["kind"] == "policy" == canary.kind(tmp_path)
    del body["kind"]
    (tmp_path / "canary.json").write_text(json.dumps(body))
    assert canary.kind(tmp_path) == "policy" and canary.read(tmp_path) == ([[1, 2]], [[-1.0]])
    assert canary.kind(tmp_path / "absent") is None


@pytest.mark.parametrize("way", LOADS)
def test_an_adapter_is_never_loaded_as_its_base(tmp_path: Path, way):
    """Its folder alone would give transformers the weights of nobody, or of the base without a word."""
    base, adapter = tiny_llama(tmp_path / "base"), tiny_llama(tmp_path / "adapter")
    kind = way if way in KINDS else "policy"
    model = Model(adapter, Model(base, kind=kind), kind)
    said = f"{adapter}: its weights lean on those of {base}, and what reads it here takes whole ones; merge the two into one folder"
    with pytest.raises(Refusal, match=said), LOADS[way](model):
        raise AssertionError("opened")
    assert weights.folder_of(Model(base)) == base


def test_what_marks_a_ranker_is_what_its_judge_asks_for(tmp_path: Path):
    folder = pairrm_shaped(tmp_path / "ranker")
    config = json.loads((folder / "config.json").read_text())
    for name in kinds.RANKER_FIELDS:
        (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != name}))
        assert of_folder(folder) is None
        with (
            pytest.raises(Refusal, match=f"lacks {name}, so this is no PairRM"),
            pairrm.load(Model(folder, kind="ranker"), "cpu", "float32"),
        ):
            raise AssertionError("opened")
