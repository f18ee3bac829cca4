"""The plan tells models apart by kind: who reads what is refused before anything runs, with the way out."""

import contextlib
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from models import Endpoint, Model
from pipeline import plugin, recipe, rows
from pipeline.errors import Problems, Refusal
from pipeline.model import KINDS
from pipeline.plan import plan
from pipeline.views.schema import recipe_schema
from tests.support import steps
from tests.support.core import profile

ADOPTED = [kind for kind in KINDS if kind != "endpoint"]
MODELS: dict[str, Any] = {
    **{kind: {"stage": "adopt", "model": "org/name", "as": kind} for kind in ADOPTED},
    "endpoint": {"stage": "adopt", "endpoint": "teacher"},
}
TABLES: dict[str, Any] = {
    "prompts": {"stage": "tests.support.plugins.words"},
    "candidates": {"stage": "generate", "model": "policy", "prompts": "prompts"},
    "judged": {"stage": "judge", "candidates": "candidates", "judge": "length"},
    "pairs": {"stage": "pair", "judged": "judged", "rule": "best_vs_worst"},
    "reference": {"stage": "logprobs", "model": "policy", "rows": "pairs"},
}
MIXTURE = {"stage": "generate", "model": "policy", "mixture_with": "policy", "prompts": "prompts"}
MERGE = {"stage": "merge", "model": "policy", "previous": "policy"}
AVERAGE = {"stage": "merge", "model": "policy", "how": "average", "others": ["policy"]}
DIAGNOSE = {"stage": "diagnose", "candidates": "candidates", "model": "policy", "against": "policy"}
TRAIN = {"stage": "train", "model": "policy", "rows": "pairs", "reference": "reference"}
LIVE = {**TRAIN, "reference_model": "policy", "objective": "sparsepo"}
DPO = {**TRAIN, "objective": "dpo"}


def judged(judge: str, **settings: Any) -> dict[str, Any]:
    return {"stage": "judge", "candidates": "candidates", "judge": {"kind": judge, **settings}}


READERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "stages.generate.model": ({**TABLES["candidates"]}, ("policy", "endpoint")),
    "stages.generate.model of a mixture": (MIXTURE, ("policy",)),
    "stages.generate.mixture_with": (MIXTURE, ("policy",)),
    "stages.ask.model": ({"stage": "ask", "model": "policy", "prompts": "prompts"}, ("policy", "endpoint")),
    "stages.logprobs.model": (TABLES["reference"], ("policy",)),
    "stages.merge.model": (MERGE, ("policy",)),
    "stages.merge.previous": (MERGE, ("policy",)),
    "stages.merge.others": (AVERAGE, ("policy",)),
    "stages.diagnose.model": (DIAGNOSE, ("policy",)),
    "stages.diagnose.against": (DIAGNOSE, ("policy",)),
    "stages.diagnose.trained": ({**DIAGNOSE, "trained": "policy"}, ("policy",)),
    "stages.train.model": (DPO, ("policy",)),
    "stages.train.reference_model": (LIVE, ("policy",)),
    "stages.train.labels": (DPO, ("policy",)),
    "stages.train.optimizer": (DPO, ("policy",)),
    "judges.rubric.model": (judged("rubric"), ("policy", "endpoint")),
    "judges.pairwise.model": (judged("pairwise"), ("policy", "endpoint")),
    "judges.joint.model": (judged("joint"), ("policy", "endpoint")),
    "judges.pairrm.model": (judged("pairrm"), ("ranker",)),
    "judges.reward_model.model": (judged("reward_model"), ("reward",)),
    "judges.gpm.model": (judged("gpm"), ("preference",)),
}


def body(node: dict[str, Any], **start: Any) -> dict[str, Any]:
    return {"name": "kinds", "rounds": 0, "start": {**MODELS, **TABLES, **start, "reader": node}, "round": {}}


def reading(reader: str, model: str) -> tuple[dict[str, Any], str]:
    """The node of a reader with `model` in the slot that it is about, and the name of the slot."""
    folder, _, field = reader.partition(" ")[0].split(".")
    node, _ = READERS[reader]
    if folder == "judges":
        return {**node, "judge": {**node["judge"], field: model}}, f"judge.{field}"
    return {**node, field: [model] if field == "others" else model}, field


@pytest.mark.parametrize("kind, reader", itertools.product(KINDS, READERS))
def test_each_reader_is_given_what_it_reads_and_refuses_the_rest(kind, reader):
    node, slot = reading(reader, kind)
    kinds = READERS[reader][1]
    if kind in kinds:
        made = {step.address: step for step in plan(recipe.make(body(node), "test"), profile())}
        assert made["start/reader"].inputs[slot] == (f"start/{kind}",) and made[f"start/{kind}"].makes == kind
        return
    with pytest.raises(Problems) as refused:
        plan(recipe.make(body(node), "test"), profile())
    sayable = [f"`as: {each}`" for each in kinds if each in ADOPTED and kind in ADOPTED]
    way_out = f"write {sayable[0]} in start.{kind} if it is one, or name another node" if sayable else "name another node"
    assert refused.value.problems == (f"start/reader: {slot}: '{kind}' makes {kind}, but {' or '.join(kinds)} is read here; {way_out}",)


def test_no_reader_is_forgotten_and_no_kind_unknown():
    """Every field of every plugin that reads a model stands above; whatever is read is a table, a kind of model or a report."""
    read = set()
    for folder in plugin.FOLDERS:
        for kind in plugin.names(folder):
            for name, info in plugin.load(folder, kind).Config.model_fields.items():
                for marker in info.metadata:
                    if isinstance(marker, plugin.Reads):
                        assert set(marker.kinds) <= {*rows.TABLES, *KINDS, "report"}, f"{folder}.{kind}.{name}"
                        read |= {f"{folder}.{kind}.{name}"} if set(marker.kinds) & set(KINDS) else set()
    assert read == {reader.partition(" ")[0] for reader in READERS}
    assert {plugin.load("stages", kind).MAKES for kind in plugin.names("stages")} <= {*rows.TABLES, "policy", "report"}


def test_what_a_step_made_is_not_called_another_kind():
    """`as` belongs to what is adopted: a trained model is a policy, and no word in the recipe changes that."""
    made = {"stage": "init", "model": {"model_type": "llama"}}
    with pytest.raises(Problems) as refused:
        plan(recipe.make(body(judged("reward_model", model="mine"), mine=made), "test"), profile())
    assert refused.value.problems == ("start/reader: judge.model: 'mine' makes policy, but reward is read here; name another node",)


def test_the_kind_is_in_the_key_and_the_default_is_not():
    def key(**settings: Any) -> tuple[str, dict[str, Any]]:
        node = {"stage": "adopt", "model": "org/name", **settings}
        step = {each.node: each for each in plan(recipe.make(body(node), "test"), profile())}["reader"]
        return step.key, step.identity["settings"]

    assert key() == key(**{"as": "policy"}) and key()[1] == {"model": "org/name"}
    assert key(**{"as": "ranker"})[1] == {"model": "org/name", "as": "ranker"} and key(**{"as": "ranker"})[0] != key()[0]


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"model": "org/name", "as": "critic"}, "as: input should be 'policy', 'reward', 'value', 'preference' or 'ranker', not 'critic'"),
        ({"model": "org/name", "kind": "ranker"}, "no field 'kind'; known: as, endpoint, model, revision, tokenizer"),
        ({"model": "org/name", "ass": "ranker"}, "no field 'ass'; did you mean 'as'?"),
        ({"endpoint": "t", "as": "reward"}, "as: a model behind an endpoint is asked for text, and is no reward; leave it out"),
    ],
)
def test_a_kind_that_cannot_be_is_refused(settings, said):
    with pytest.raises(Problems) as refused:
        plan(recipe.make(body({"stage": "adopt", **settings}), "test"), profile())
    assert refused.value.problems == (f"start/reader: {said}",)


def test_editors_are_told_of_the_kinds():
    checker = Draft202012Validator(recipe_schema())
    assert checker.is_valid(body(judged("pairrm", model="ranker")))
    assert not checker.is_valid(body({"stage": "adopt", "model": "m", "as": "critic"}))
    assert not checker.is_valid(body({"stage": "adopt", "model": "m", "kind": "ranker"}))
    assert recipe_schema()["$defs"]["judges.pairrm"]["properties"]["model"]["anyOf"][0]["x-reads"] == ["ranker"]


def test_a_step_is_handed_the_model_and_its_kind(tmp_path: Path):
    """What was adopted says its kind in its record, what a step made in its manifest."""
    (tmp_path / "weights").mkdir()
    for name, record in (("ranker", {"kind": "ranker"}), ("endpoint", {"from": "endpoint", "name": "t"})):
        (tmp_path / name).mkdir()
        whole = {"from": "folder", "path": None if name == "endpoint" else str(tmp_path / "weights"), "files": {}, **record}
        (tmp_path / name / "adopted.json").write_text(json.dumps(whole))
    (tmp_path / "made").mkdir()
    inputs = {name: (steps.folder(tmp_path / name),) for name in ("ranker", "endpoint", "made")}
    tools = steps.tools(tmp_path / "step", inputs=inputs)
    ranker = tools.model("ranker")
    assert ranker == Model(tmp_path / "weights", None, "ranker") == pickle.loads(pickle.dumps(ranker))
    assert tools.model("made") == Model(inputs["made"][0].path, None, "policy") and inputs["made"][0].manifest.makes == "policy"
    with pytest.raises(Refusal, match="is the model 't' behind an endpoint, which has no weights here"):
        tools.model("endpoint")
    opened = []

    def opens(*args: Any):
        opened.append(args)
        return contextlib.nullcontext(args)

    assert tools.warm(opens, tools.model("ranker")) is tools.warm(opens, tools.model("ranker")) and len(opened) == 1
    assert Endpoint("t", None) == pickle.loads(pickle.dumps(Endpoint("t", None)))
