"""The diagnosis of a round, against plain recomputation: tables alone, a real tiny model, the rounds before, and bad input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metrics import alarms, diversity, judge_statistics, lc_win_rate
from models import Model, chat, forward
from pipeline import artifact, rows
from pipeline.errors import Refusal
from stages import diagnose
from stages.diagnose import measures
from tests.support import steps
from tests.support.models import tiny_llama

TEXTS = {
    "p1": ["a b c d", "a b", "a b"],
    "p2": ["x", "y z y z", ""],
    "p3": ["same", "same", "same"],
    "p4": ["one two", "two one", "one"],
}
SCORES = {"p1": [3.0, 1.0, 1.0], "p2": [2.0, 0.0, None], "p3": [1.0, 1.0, 1.0], "p4": [0.0, 1.0, 0.5]}
CIRCLE = [[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]]
LINE = [[0.5, 0.9, 0.9], [0.1, 0.5, 0.9], [0.1, 0.1, 0.5]]


def judged(path: Path):
    made = steps.candidates(TEXTS)
    wins = {"p1": LINE, "p2": None, "p3": [[0.5] * 3] * 3, "p4": CIRCLE}
    made[0]["responses"][1]["finish_reason"] = "length"
    return steps.table(path, "judged", [{**row, "scores": SCORES[row["id"]], "wins": wins[row["id"]]} for row in made])


def pair(id: str, chosen: str, rejected: str, scores=(1.0, 0.0), label=None, ids=True, **more):
    both = {"chosen": chosen, "rejected": rejected}
    return {
        "id": f"{id}.01.0-1",
        "prompt_id": id,
        "prompt": steps.prompt(f"say {id}"),
        **{side: [{"role": "assistant", "content": text}] for side, text in both.items()},
        **({f"{side}_token_ids": [ord(c) for c in text] for side, text in both.items()} if ids else {}),
        "prompt_token_ids": [1, 2, 3] if ids else None,
        "tokenizer": "test",
        "chosen_score": scores[0],
        "rejected_score": scores[1],
        "label": label,
        "weight": 1.0,
        "source_round": 1,
        **more,
    }


PAIRS = [pair("p1", "abcd", "ab", (3.0, 1.0)), pair("p2", "x", "yzyz", (2.0, 0.0)), pair("p4", "ab", "ba", (1.0, None))]


def report(path: Path) -> dict:
    return json.loads((path / "report.json").read_text())


def test_what_tables_alone_say(tmp_path):
    inputs = {"pairs": steps.table(tmp_path / "pairs", "pairs", PAIRS), "judged": judged(tmp_path / "judged")}
    made = steps.build(tmp_path / "report", "diagnose", {}, inputs)
    facts = made.manifest.facts
    assert facts == report(made.path)
    # Pairs.
    assert (facts["pairs"], facts["pairs_measured"], facts["kept_share"]) == (3, 3, 0.75)
    assert facts["mean_score_gap"] == 2.0  # the third has none
    assert facts["mean_chosen_tokens"] == round(7 / 3, 6) and facts["mean_rejected_tokens"] == round(8 / 3, 6)
    assert facts["chosen_longer"] == 0.5  # one longer, one shorter, one neither
    assert facts["text_gap"] == round((2 / 4 + 4 / 4 + 2 / 2) / 3, 6)
    # Judge: p1 has 2 pairs that differ in length (both to the longer), p2 one (to the shorter), p4 2 (tie-free: one each).
    assert facts["groups"] == 4 and facts["longer_wins"] == round((2 + 0 + 1) / 5, 6)
    assert facts["tie_share"] == 0.25 and facts["zero_spread_share"] == 0.25  # p3; in p1 it is the last place that is shared
    assert facts["cycle_rate"] == round(1 / 3, 6)  # p2 has no table
    # Samples, for want of `candidates` those that were judged.
    assert facts["sampled_responses"] == 12 and facts["truncated_share"] == round(1 / 12, 6)
    lengths = [len(text) for texts in TEXTS.values() for text in texts]
    assert facts["mean_tokens"] == round(np.mean(lengths), 6) and facts["median_tokens"] == np.median(lengths)
    words = [word for texts in TEXTS.values() for text in texts for word in text.split()]
    assert facts["distinct_1"] == round(len(set(words)) / len(words), 6)
    assert facts["unique_share"] == round((2 / 3 + 1 + 1 / 3 + 1) / 4, 6)
    assert [text.split(":")[0] for text in facts["alarms"]] == ["cycle_rate"]
    assert "ranking_accuracy" not in facts and "entropy_per_token_nats" not in facts and "length_ratio_to_first" not in facts


def observed(path: Path, judge: dict, observations: dict, details: list | None = None):
    """A judged table with what its judge saw of itself."""
    made = [{**row, "scores": SCORES[row["id"]], "wins": None, "detail": None} for row in steps.candidates(TEXTS)]
    for row, detail in zip(made, details or [], strict=False):
        row["detail"] = json.dumps(detail)
    with artifact.draft(path, "0" * 32) as draft:
        rows.write(draft.out, "judged", [rows.from_pylist("judged", made)])
        facts = {"judge": judge, "observations": observations}
        return artifact.publish(draft, path, makes="judged", key="0" * 32, identity={}, inputs={}, facts=facts, provenance={})


@pytest.mark.parametrize(
    "judge, counts, expected, told",
    [
        ({"position_rate": 0.6, "order_flips": 0.1}, 20, (0.6, 0.1, 0.9), []),
        ({"position_rate": 0.3, "order_flips": 0.25}, 20, (0.3, 0.2, 0.75), ["position_consistency", "position_bias"]),
        ({"position_rate": 0.9, "order_flips": 0.9}, 19, (None, None, None), []),
        ({"judges.0.position_rate": 0.45, "judges.1.position_rate": 0.7}, 20, (0.7, 0.2, None), ["position_bias"]),
        ({"position_rate": None, "parse_failures": 0.5}, 20, (None, None, None), []),
        ({}, 0, (None, None, None), []),
    ],
)
def test_what_a_judge_saw_of_itself(judge, counts, expected, told, tmp_path):
    table = observed(tmp_path / "judged", judge, dict.fromkeys(judge, counts))
    facts = steps.build(tmp_path / "report", "diagnose", {}, {"judged": table}).manifest.facts
    assert (facts["position_rate"], facts["position_bias"], facts["position_consistency"]) == expected
    assert [text.split(":")[0] for text in facts["alarms"]] == told


def test_agreement_of_a_judges_samples_beyond_chance(tmp_path):
    def kappa(name, details):
        table = observed(tmp_path / name, {}, {}, [{"samples": each} for each in details])
        return steps.build(tmp_path / f"{name}-report", "diagnose", {}, {"judged": table}).manifest.facts

    same = [[[score] * 3 for score in (1, 2, 3, 4, 5)]] * 4
    assert kappa("same", same)["judge_kappa"] == 1 and kappa("few", same[:3])["judge_kappa"] is None
    draw = np.random.default_rng(0)
    noise = [draw.integers(1, 6, (60, 3)).tolist() for _ in range(4)]
    facts = kappa("noise", noise)
    counts = [[each.count(score) for score in range(1, 6)] for group in noise for each in group]
    assert facts["judge_kappa"] == round(judge_statistics.fleiss_kappa(np.asarray(counts)), 6) and abs(facts["judge_kappa"]) < 0.1
    assert [text.split(":")[0] for text in facts["alarms"]] == ["judge_kappa"]
    assert kappa("cut", [[each[:2] if i % 2 else each for i, each in enumerate(group)] for group in noise])["judge_kappa"] is not None
    assert kappa("once", [[[1.0]] * 30] * 4)["judge_kappa"] is None is kappa("none", [])["judge_kappa"]


def test_self_bleu_is_bounded_and_by_prompt(tmp_path, monkeypatch):
    facts = steps.build(tmp_path / "report", "diagnose", {}, {"judged": judged(tmp_path / "judged")}).manifest.facts
    assert facts["self_bleu"] == pytest.approx(np.mean([diversity.self_bleu(texts) for texts in TEXTS.values()]), abs=1e-6)
    monkeypatch.setattr(measures, "GROUPS", 2)
    monkeypatch.setattr(measures, "WORDS", 2)
    monkeypatch.setattr(measures, "RESPONSES", 2)
    few = steps.build(tmp_path / "few", "diagnose", {}, {"judged": judged(tmp_path / "judged-2")}).manifest.facts
    cut = [[" ".join(text.split()[:2]) for text in TEXTS[id][:2]] for id in ("p1", "p3")]
    assert few["self_bleu"] == pytest.approx(np.mean([diversity.self_bleu(texts) for texts in cut]), abs=1e-6)
    assert "expectation_adjusted_distinct" not in facts, "nobody said what the vocabulary is"


def test_how_rows_are_split_changes_no_byte_and_a_limit_takes_rows_evenly(tmp_path):
    judged_table = judged(tmp_path / "judged")
    one = steps.build(tmp_path / "one", "diagnose", {}, {"judged": judged_table}, rows_per_shard=1)
    all_ = steps.build(tmp_path / "all", "diagnose", {}, {"judged": judged_table}, rows_per_shard=100)
    assert one.manifest.digest == all_.manifest.digest
    some = steps.build(tmp_path / "some", "diagnose", {"rows": 2}, {"judged": judged_table}).manifest.facts
    words = [word for id in ("p1", "p3") for text in TEXTS[id] for word in text.split()]
    assert some["distinct_1"] == round(len(set(words)) / len(words), 6)
    assert some["sampled_responses"] == 12 and some["groups"] == 4


def test_nothing_to_compare_is_none_and_alarms_nothing(tmp_path):
    alone = steps.candidates({"p1": ["only one"]})
    inputs = {"judged": steps.table(tmp_path / "judged", "judged", [{**row, "scores": [None], "wins": None} for row in alone])}
    inputs["pairs"] = steps.table(tmp_path / "pairs", "pairs", [])
    facts = steps.build(tmp_path / "report", "diagnose", {}, inputs).manifest.facts
    assert facts["pairs"] == 0 and facts["kept_share"] == 0.0
    for name in (
        "mean_score_gap",
        "text_gap",
        "chosen_longer",
        "longer_wins",
        "length_spearman",
        "cycle_rate",
        "unique_share",
        "tie_share",
    ):
        assert facts[name] is None, name
    assert [text.split(":")[0] for text in facts["alarms"]] == ["kept_share"]


# A real model.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: steps.folder(tiny_llama(folder / name, seed=seed)) for name, seed in (("policy", 1), ("base", 2))}


def plain(model_folder: Path, prompt: list[int], response: list[int]):
    """Log-probabilities, entropies and the mean last state of one response, by the model's own forward without any batch."""
    model = forward.read(Model(model_folder), "float32")
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        found = model(input_ids=ids, output_hidden_states=True)
    logps = torch.log_softmax(found.logits[0], -1)[len(prompt) - 1 : -1]
    own = logps.gather(1, ids[0, len(prompt) :, None])[:, 0]
    return own.double(), -(logps.exp() * logps).sum(-1).double(), found.hidden_states[-1][0, len(prompt) :].mean(0).double()


@pytest.fixture(scope="module")
def tables(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    fingerprint = chat.fingerprint(chat.load_tokenizer(models["policy"].path))
    draw = np.random.default_rng(0)

    def ids(count):
        return draw.integers(7, 90, count).tolist()

    pairs = [
        pair(
            f"p{i}",
            "c",
            "r",
            label=label,
            prompt_token_ids=ids(3 + i),
            chosen_token_ids=ids(2 + 3 * i),
            rejected_token_ids=ids(9 - i),
            tokenizer=fingerprint,
        )
        for i, label in enumerate((0.9, None, 0.6, 0.99, 0.5))
    ]
    candidates = steps.candidates({f"p{i}": ["a", "b"] for i in range(3)})
    for row in candidates:
        row.update(prompt_token_ids=ids(4), tokenizer=fingerprint)
        for response in row["responses"]:
            response["token_ids"] = ids(int(draw.integers(1, 9)))
    return {
        "pairs": steps.table(folder / "pairs", "pairs", pairs),
        "candidates": steps.table(folder / "candidates", "candidates", candidates),
        "raw": (pairs, candidates),
    }


def made_by(artifact_: artifact.Artifact, stage: str, **settings) -> artifact.Artifact:
    """An artifact as if a step of `stage` with these settings had made it."""
    identity = {"stage": stage, "settings": settings}
    return replace(artifact_, manifest=artifact_.manifest.model_copy(update={"identity": identity}))


def trained(model: artifact.Artifact, **objective) -> artifact.Artifact:
    return made_by(model, "train", objective={"version": 1, **objective})


@pytest.mark.parametrize("size", [2, 100])
def test_what_a_model_says_of_pairs(models, tables, tmp_path, size):
    given = {"pairs": tables["pairs"], "model": trained(models["policy"], kind="dpo", beta=0.02)}
    given["reference"] = steps.build(tmp_path / "reference", "logprobs", {}, {"rows": tables["pairs"], "model": models["base"]})
    made = steps.build(tmp_path / "report", "diagnose", {}, given, rows_per_shard=size)
    facts, (pairs, _) = made.manifest.facts, tables["raw"]
    seen = {
        (who, side): [plain(models[who].path, row["prompt_token_ids"], row[f"{side}_token_ids"]) for row in pairs]
        for who in ("policy", "base")
        for side in ("chosen", "rejected")
    }
    C, R, X, Y = (
        np.asarray([float(each[0].sum()) for each in seen[who, side]]) for who in ("policy", "base") for side in ("chosen", "rejected")
    )
    tokens = {side: np.asarray([len(row[f"{side}_token_ids"]) for row in pairs]) for side in ("chosen", "rejected")}
    labels = np.asarray([0.75 if row["label"] is None else row["label"] for row in pairs])
    ideal = np.mean(X - Y + np.log(labels / (1 - labels)) / 0.02 > 0)
    expected = {
        "ranking_accuracy": np.mean(C > R),
        "ranking_accuracy_per_token": np.mean(C / tokens["chosen"] > R / tokens["rejected"]),
        "reference_ranking_accuracy": np.mean(X > Y),
        "reference_ranking_accuracy_per_token": np.mean(X / tokens["chosen"] > Y / tokens["rejected"]),
        "ranking_ties": 0.0,
        "reward_accuracy": np.mean(C - X > R - Y),
        "idealised_ranking_accuracy": ideal,
        "alignment_gap": ideal - np.mean(C > R),
        "mean_hardness_nats": np.mean(Y - X),
        "mean_reward_margin": 0.02 * np.mean(C - X - R + Y),
        "saturated_share": np.mean(1 / (1 + np.exp(-0.02 * (C - X - R + Y))) > 0.95),
        "chosen_logratio_per_token_nats": (C - X).sum() / tokens["chosen"].sum(),
        "rejected_logratio_per_token_nats": (R - Y).sum() / tokens["rejected"].sum(),
    }
    both = [(mine[2], other[2]) for mine, other in zip(seen["policy", "chosen"], seen["policy", "rejected"], strict=True)]
    expected["representation_cosine"] = np.mean([float(torch.cosine_similarity(a, b, dim=0)) for a, b in both])
    expected["representation_distance"] = np.mean([float((a - b).norm()) for a, b in both])
    assert {name: facts[name] for name in expected} == pytest.approx(expected, abs=2e-4)
    kept = rows.read(made.path / "pairs").to_pylist()
    assert [row["id"] for row in kept] == [row["id"] for row in pairs]
    assert kept[1]["logprobs"][0] == pytest.approx(seen["policy", "chosen"][1][0].tolist(), abs=1e-4)


def test_kl_and_entropy_of_samples(models, tables, tmp_path):
    given = {"candidates": tables["candidates"], "model": models["policy"], "against": models["base"]}
    facts = steps.build(tmp_path / "report", "diagnose", {}, given, rows_per_shard=2).manifest.facts
    mine, other = (
        [plain(models[who].path, row["prompt_token_ids"], each["token_ids"]) for row in tables["raw"][1] for each in row["responses"]]
        for who in ("policy", "base")
    )
    x = torch.cat([a[0] - b[0] for a, b in zip(mine, other, strict=True)])
    expected = {
        "entropy_per_token_nats": float(torch.cat([each[1] for each in mine]).mean()),
        "kl_k1_per_token_nats": float(x.mean()),
        "kl_k1_per_sequence_nats": float(x.sum()) / len(mine),
        "kl_k3_per_token_nats": float((torch.exp(-x) - 1 + x).mean()),
    }
    ids = [id for row in tables["raw"][1] for each in row["responses"] for id in each["token_ids"]]
    size = json.loads((models["policy"].path / "config.json").read_text())["vocab_size"]
    expected["expectation_adjusted_distinct"] = len(set(ids)) / (size * (1 - ((size - 1) / size) ** len(ids)))
    assert {name: facts[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)
    itself = steps.build(tmp_path / "itself", "diagnose", {}, {**given, "against": models["policy"]}).manifest.facts
    assert itself["kl_k3_per_token_nats"] == 0 == itself["kl_k1_per_sequence_nats"]


BETA = {"idealised_ranking_accuracy", "alignment_gap", "mean_reward_margin", "saturated_share"}


def test_beta_is_what_was_trained_with(models, tables, tmp_path):
    """Of the model itself, its defaults included, or of the training that it was made from; without one, what needs it is left out."""
    base = models["base"]
    reference = steps.build(tmp_path / "reference", "logprobs", {}, {"rows": tables["pairs"], "model": base})
    given = {"pairs": tables["pairs"], "reference": reference}
    policy = models["policy"]

    def facts(name, model, **more):
        return steps.build(tmp_path / name, "diagnose", {}, {**given, "model": model, **more}).manifest.facts

    default = facts("default", trained(policy, kind="dpo"))
    assert default["mean_reward_margin"] == pytest.approx(
        10 * facts("low", trained(policy, kind="dpo", beta=0.01))["mean_reward_margin"], abs=1e-4
    )
    eta = facts("eta", trained(policy, kind="inpo", eta=0.1))
    assert eta["mean_reward_margin"] == default["mean_reward_margin"]
    merged = made_by(policy, "merge", how="extrapolate", alpha=0.3)
    assert facts("merged", merged, trained=trained(base, kind="dpo")).items() >= {name: default[name] for name in BETA}.items()
    adopted = made_by(policy, "adopt", model="org/name")
    for name, model in (("none", trained(policy, kind="sft")), ("merge", merged), ("adopted", adopted)):
        found = facts(name, model)
        assert not BETA & found.keys() and found["reward_accuracy"] == default["reward_accuracy"]


def test_a_model_that_ranks_its_reference_has_moved_nowhere(models, tables, tmp_path):
    given = {"pairs": tables["pairs"], "model": trained(models["policy"], kind="dpo")}
    given["reference"] = steps.build(tmp_path / "reference", "logprobs", {}, {"rows": tables["pairs"], "model": models["policy"]})
    facts = steps.build(tmp_path / "report", "diagnose", {}, given).manifest.facts
    assert facts["ranking_accuracy"] == facts["reference_ranking_accuracy"]
    assert abs(facts["chosen_logratio_per_token_nats"]) < 1e-5 and facts["saturated_share"] == 0


# The rounds before.


def earlier(path: Path, **facts):
    with artifact.draft(path, "0" * 32) as draft:
        (draft.out / "report.json").write_text(json.dumps(facts))
        return steps.publish(draft, path, "report")


def test_drift_to_the_first_and_the_last_report(tmp_path):
    first = earlier(tmp_path / "r1", mean_tokens=1.0, distinct_2=1.0, mean_score_gap=None, other="text")
    second = earlier(tmp_path / "r1b", mean_tokens=9.0, mean_score_gap=9.0)
    last = earlier(tmp_path / "r2", mean_tokens=2.0, distinct_2=0.0)
    given = {
        "pairs": steps.table(tmp_path / "pairs", "pairs", PAIRS),
        "judged": judged(tmp_path / "judged"),
        "earlier": [first, second, last],
    }
    facts = steps.build(tmp_path / "report", "diagnose", {}, given, round=3).manifest.facts
    mean = facts["mean_tokens"]
    assert facts["length_ratio_to_first"] == mean and facts["length_growth_since_last"] == pytest.approx(mean / 2 - 1)
    assert facts["distinct_2_ratio_to_first"] == pytest.approx(facts["distinct_2"])
    assert facts["score_gap_ratio_to_first"] == pytest.approx(2 / 9, abs=1e-6) and "entropy_ratio_to_first" not in facts
    told = {text.split(":")[0] for text in facts["alarms"]}
    assert told == {"length_ratio_to_first", "length_growth_since_last", "score_gap_ratio_to_first", "cycle_rate"}
    moved = {"length_ratio_to_first": 9.0, "length_growth_since_last": 9.0, "cycle_rate": 0.9, "score_gap_ratio_to_first": 0.1}
    assert steps.build(tmp_path / "quiet", "diagnose", {"limits": moved}, given, round=3).manifest.facts["alarms"] == []


def test_nothing_is_divided_by_zero():
    assert diagnose.drift({"mean_tokens": 3.0}, [{"mean_tokens": 0.0}]) == {}
    assert diagnose.drift({"mean_tokens": None}, [{"mean_tokens": 1.0}]) == {} == diagnose.drift({"mean_tokens": 1.0}, [])


# Head to head.


def test_the_win_rate_of_a_report_at_equal_length(tmp_path):
    draw = np.random.default_rng(0)
    texts = {f"p{i}": [["x" * int(n) for n in draw.integers(1, 40, 2)] for _ in range(2)] for i in range(30)}
    sides = [steps.table(tmp_path / f"s{k}", "candidates", steps.candidates({id: both[k] for id, both in texts.items()})) for k in (0, 1)]
    report_ = steps.build(
        tmp_path / "evaluate", "evaluate", {"judge": {"kind": "length", "prefer": "longer"}}, {"candidates": sides[0], "against": sides[1]}
    )
    facts = steps.build(tmp_path / "report", "diagnose", {}, {"head_to_head": report_}).manifest.facts
    won = [np.mean([0.5 if len(a) == len(b) else len(a) > len(b) for a in mine for b in other]) for mine, other in texts.values()]
    mine, other = (np.asarray([np.mean([len(text) for text in both[k]]) for both in texts.values()]) for k in (0, 1))
    by_hand = lc_win_rate.lc_win_rate(np.asarray(won), mine, other, inverse_penalty=100.0)
    assert facts["raw_win_rate"] == pytest.approx(report_.manifest.facts["win_rate"], abs=1e-6)
    assert facts["length_controlled_win_rate"] == pytest.approx(by_hand.win_rate, abs=1e-6)
    assert facts["length_controlled_win_rate_low"] < by_hand.win_rate < facts["length_controlled_win_rate_high"]
    assert facts["mean_length_ratio"] == pytest.approx(mine.mean() / other.mean(), abs=1e-6) and facts["head_to_head_prompts"] == 30
    assert facts["gold_accuracy"] is None and isinstance(facts["length_controlled_extreme"], bool)
    again = steps.build(tmp_path / "again", "diagnose", {}, {"head_to_head": report_}, rows_per_shard=1)
    assert again.manifest.facts == facts


def test_a_report_without_verdicts_has_no_head_to_head(tmp_path):
    with pytest.raises(Refusal, match="holds no judged responses; name a report of the stage evaluate"):
        steps.build(tmp_path / "report", "diagnose", {}, {"head_to_head": earlier(tmp_path / "r", accuracy=1.0)})


# Bad input.


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({}, "name at least one of pairs, judged, candidates and head_to_head"),
        ({"judged": "j", "reference": "r"}, "name the pairs too"),
        ({"judged": "j", "model": "m"}, "nothing to run it over"),
        ({"pairs": "p", "model": "m", "against": "n"}, "name both"),
        ({"pairs": "p", "trained": "m"}, "name the model too"),
        ({"pairs": "p", "limits": {"kept_shar": 0.5}}, "no alarm on 'kept_shar'; did you mean 'kept_share'"),
    ],
)
def test_settings_that_make_no_sense(settings, problem):
    with pytest.raises(ValueError, match=problem):
        diagnose.Config.model_validate(settings)


def test_inputs_that_do_not_belong_together(models, tables, tmp_path):
    given = {"pairs": tables["pairs"], "model": models["policy"]}
    cut = steps.build(tmp_path / "cut", "logprobs", {"max_length": 6}, {"rows": tables["pairs"], "model": models["base"]})
    with pytest.raises(Refusal, match="reference: scored .* with a model of the same tokenizer"):
        steps.build(tmp_path / "a", "diagnose", {}, {**given, "reference": cut})
    known = made_by(cut, "logprobs", max_length=6)
    assert steps.build(tmp_path / "b", "diagnose", {}, {**given, "reference": known}).manifest.facts["pairs"] == 5
    other = steps.table(tmp_path / "other", "logprobs", [{"id": "elsewhere", "logprobs": [[-1.0], [-2.0]]}])
    with pytest.raises(Refusal, match="has no log-probabilities of 5 of 5 pairs"):
        steps.build(tmp_path / "c", "diagnose", {}, {**given, "reference": other})
    nothing = steps.table(tmp_path / "nothing", "prompts", [])
    with pytest.raises(Refusal, match="holds no report.json"):
        steps.build(tmp_path / "d", "diagnose", {}, {"pairs": tables["pairs"], "earlier": [nothing]})


def test_every_bound_is_on_a_fact_that_a_diagnosis_can_have(models, tables, tmp_path):
    given = {"pairs": tables["pairs"], "candidates": tables["candidates"], "judged": judged(tmp_path / "judged")}
    given |= {"model": trained(models["policy"], kind="dpo"), "against": models["base"]}
    given["reference"] = steps.build(tmp_path / "reference", "logprobs", {}, {"rows": tables["pairs"], "model": models["base"]})
    before = earlier(
        tmp_path / "r1", mean_tokens=1.0, distinct_2=1.0, mean_score_gap=1.0, kl_k3_per_token_nats=1.0, entropy_per_token_nats=1.0
    )
    facts = steps.build(tmp_path / "report", "diagnose", {}, {**given, "earlier": [before]}).manifest.facts
    assert {*alarms.BOUNDS, alarms.DISPLACED, "chosen_logratio_per_token_nats"} - {"distinct_2_ratio_to_first"} <= facts.keys()
