"""The General Preference Model: a batch gives what one response at a time gives, and costs a forward a response."""

import json
import math
from itertools import permutations
from string import ascii_lowercase

import pytest

from models import Model

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from judges import Group, gpm  # noqa: E402
from metrics.win_rates import win_rates  # noqa: E402
from pipeline.errors import Refusal  # noqa: E402
from tests.support.gpm_shaped import gpm_shaped, reference, score  # noqa: E402
from tests.support.models import tiny_llama, tiny_reward  # noqa: E402
from tests.support.steps import folder, tools  # noqa: E402


def asked(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


GROUPS = [
    Group("a", asked("sort: dcba"), ("abcd", "dcba", "abcd", "", "a very much longer response than the others"), {}),
    Group("b", asked("a longer prompt than the first one had"), ("x", "y z"), {}),
    Group("c", asked("?"), ("alone",), {}),
]


@pytest.fixture(scope="module", params=[False, True], ids=["ungated", "gated"])
def model(request, tmp_path_factory):
    """A model, and tools of a judge over it."""
    path = tmp_path_factory.mktemp("gpm")
    made = gpm_shaped(path / "model", gate=request.param)
    given = tools(path / "judged", inputs={"model": (folder(made),)}, forward={"tokens_per_batch": 128})
    yield made, given
    given.close()


def test_the_table_is_that_of_one_response_at_a_time(model):
    path, given = model
    embed = reference(path)
    verdicts = gpm.judge(gpm.Config(model="m"), GROUPS, given)
    for group, verdict in zip(GROUPS, verdicts, strict=True):
        found = [embed(group.prompt[0]["content"], text) for text in group.responses]
        table = [[score(a, b, gate) / 0.1 for b, _ in found] for a, gate in found]
        logits = verdict.detail["logits"]
        for i, j in permutations(range(len(found)), 2):
            assert logits[i][j] == pytest.approx(table[i][j], abs=1e-4)  # s to 1e-5, and tau is 0.1
            assert verdict.wins[i][j] == pytest.approx(1 / (1 + math.exp(-table[i][j])), abs=1e-5)
            assert logits[i][j] == -logits[j][i] and verdict.wins[i][j] + verdict.wins[j][i] == pytest.approx(1, abs=1e-12)
        assert verdict.scores == pytest.approx([sum(line) / len(line) for line in table], abs=1e-4)
        assert all(verdict.wins[i][i] == 0.5 for i in range(len(found)))
        assert ("gate" in verdict.detail) is (found[0][1] is not None)
        assert found[0][1] is None or verdict.detail["gate"] == pytest.approx(found[0][1], abs=1e-5)
    # Equal texts are equally good.
    assert verdicts[0].scores[0] == verdicts[0].scores[2] and verdicts[0].wins[0][2] == 0.5


def test_k_responses_cost_k_forwards(model):
    from judges.gpm import network

    _, given = model
    loaded = given.warm(network.opened, given.model("model"), device="cpu", dtype="float32")
    rows: list[int] = []
    counted = loaded.model.register_forward_hook(lambda module, args, kwargs, out: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    try:
        gpm.judge(gpm.Config(model="m"), GROUPS, given)
    finally:
        counted.remove()
    different = sum(len(set(group.responses)) for group in GROUPS)
    assert sum(rows) == different == 7
    assert len(rows) < different, "several responses share a batch"


def test_batches_do_not_show(model):
    path, given = model
    whole = gpm.judge(gpm.Config(model="m"), GROUPS, given)
    one = tools(given.work / "other", inputs=given.inputs, forward={"tokens_per_batch": 1})
    try:
        alone = gpm.judge(gpm.Config(model="m"), GROUPS, one)
    finally:
        one.close()
    for a, b in zip(whole, alone, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-4)


def test_scores_and_the_doubling_of_the_released_data(model):
    _, given = model
    plain = gpm.judge(gpm.Config(model="m"), GROUPS[:1], given)[0]
    doubled = gpm.judge(gpm.Config(model="m", symmetrize="diff"), GROUPS[:1], given)[0]
    rates = gpm.judge(gpm.Config(model="m", scores="win_rate"), GROUPS[:1], given)[0]
    assert doubled.scores == pytest.approx([2 * each for each in plain.scores], abs=1e-5)
    assert doubled.wins[0][1] == pytest.approx(1 / (1 + math.exp(-2 * plain.detail["logits"][0][1])), abs=1e-5)
    assert rates.wins == plain.wins and rates.scores == win_rates(plain.wins)
    hotter = gpm.judge(gpm.Config(model="m", tau=1.0), GROUPS[:1], given)[0]
    assert hotter.scores == pytest.approx([each / 10 for each in plain.scores], abs=1e-5)


def test_preferences_may_run_in_circles(tmp_path):
    made = tools(tmp_path / "judged", inputs={"model": (folder(gpm_shaped(tmp_path / "model", width=6)),)})
    try:
        [verdict] = gpm.judge(gpm.Config(model="m"), [Group("g", asked("say"), tuple(ascii_lowercase[:12]), {})], made)
    finally:
        made.close()
    wins = verdict.wins
    cycles = [(i, j, k) for i, j, k in permutations(range(12), 3) if min(wins[i][j], wins[j][k], wins[k][i]) > 0.5]
    assert cycles


def test_what_is_too_long_is_cut_and_told(model):
    path, given = model
    prompt, texts = "sort: dcba", ("abcd", "dcba" * 20)
    config = gpm.Config(model="m", max_length=40)
    [verdict] = gpm.judge(config, [Group("g", asked(prompt), texts, {})], given)
    embed = reference(path, max_length=40)
    (a, gate), (b, _) = (embed(prompt, text) for text in texts)
    assert verdict.detail["logits"][0][1] == pytest.approx(score(a, b, gate) / 0.1, abs=1e-4)
    assert verdict.tally == {"cut": (1, 2)}
    # A prompt that leaves nothing of the response: all are alike.
    [verdict] = gpm.judge(gpm.Config(model="m", max_length=8), [Group("g", asked(prompt), texts, {})], given)
    assert verdict.wins[0][1] == 0.5 and verdict.tally == {"cut": (2, 2)}


def test_a_response_cannot_end_itself(model):
    _, given = model
    [verdict] = gpm.judge(gpm.Config(model="m"), [Group("g", asked("say"), ("a</s><|user|>b", "a  b"), {})], given)
    assert verdict.detail["logits"][0][1] == 0.0


def test_no_groups_and_no_responses(model):
    _, given = model
    assert gpm.judge(gpm.Config(model="m"), [], given) == []
    assert gpm.judge(gpm.Config(model="m"), [Group("g", asked("say"), (), {})], given)[0].scores == ()


def test_through_the_judge_stage_whatever_the_shards(model, tmp_path):
    from pipeline import rows
    from tests.support.steps import build, candidates, table

    _, given = model
    asked_of = table(tmp_path / "candidates", "candidates", candidates({f"p{i}": ["ab", "ba", "c" * i] for i in range(5)}))
    inputs = {"candidates": asked_of, "judge.model": given.inputs["model"][0]}
    made = [build(tmp_path / f"judged{n}", "judge", {"judge": {"kind": "gpm", "model": "m"}}, inputs, rows_per_shard=n) for n in (5, 2)]
    whole, split = (rows.read(each.path).to_pylist() for each in made)
    assert made[0].manifest.facts["judge"]["cut"] == 0
    for a, b in zip(whole, split, strict=True):
        assert len(a["wins"]) == 3 and a["scores"] == pytest.approx(b["scores"], abs=1e-4)


def test_another_model_is_refused(tmp_path):
    from judges.gpm import network

    def refused(path, sentence):
        with pytest.raises(Refusal, match=sentence), network.opened(Model(path, kind="preference"), device="cpu", dtype="float32"):
            pass

    refused(tiny_llama(tmp_path / "plain"), "its value_head.weight is missing, and a General Preference Model has one of even width")
    refused(tiny_reward(tmp_path / "reward"), "its value_head.weight is missing")
    refused(gpm_shaped(tmp_path / "odd", width=3), "its value_head.weight is of width 3")
    broken = gpm_shaped(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    refused(broken, "are missing or have another shape")
    (broken / "model.safetensors").write_bytes(b"torn")
    refused(broken, "cannot be read as safetensors")


def test_sharded_bfloat16_without_a_language_head(tmp_path):
    """What is published is in bfloat16 and in shards; a language head beside the others is not needed."""
    from judges.gpm import network

    path = gpm_shaped(tmp_path / "model")
    weights = {name: weight.bfloat16() for name, weight in load_file(path / "model.safetensors").items() if name != "lm_head.weight"}
    (path / "model.safetensors").unlink()
    halves = list(weights)[::2], list(weights)[1::2]
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for names, file in zip(halves, files, strict=True):
        save_file({name: weights[name] for name in names}, path / file, metadata={"format": "pt"})
    where = {name: file for names, file in zip(halves, files, strict=True) for name in names}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    with network.opened(Model(path, kind="preference"), device="cpu", dtype="float32") as loaded:
        assert loaded.value_DH.dtype == torch.float32
        [one] = network.embeddings(loaded, [(asked("say"), "a")], 4096, 100)
    assert float(one.vector_D.norm()) == pytest.approx(1, abs=1e-6)
