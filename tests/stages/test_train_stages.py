"""init, adopt, logprobs and train, driven as the runner drives them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from models import canary, chat
from pipeline import model as models
from pipeline import plugin, rows
from pipeline.artifact import Artifact, digest_of
from pipeline.errors import Refusal
from pipeline.plugin import load
from stages import init, logprobs, train
from tests.support import steps
from tests.support.models import tiny_llama
from tests.trainers.test_training import pair_row
from training.job import Optimisation

TINY = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
CPU = {"trainer": {"kind": "torch", "threads": 1}, "forward": {"tokens_per_batch": 200}}
OPTIMISATION = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 128}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return steps.folder(tiny_llama(tmp_path_factory.mktemp("models") / "policy"))


def pairs(path: Path, count: int = 12, **more: Any) -> Artifact:
    return steps.table(path, "pairs", [pair_row(i, **more) for i in range(count)])


def reference(path: Path, policy: Artifact, source: Artifact, **settings: Any) -> Artifact:
    return steps.build(path, "logprobs", settings, {"model": policy, "rows": source}, **CPU)


def trained(path: Path, policy: Artifact, source: Artifact, objective: Any, scored: Artifact | None = None, **settings: Any) -> Artifact:
    inputs = {"model": policy, "rows": source, **({"reference": scored} if scored else {})}
    return steps.build(path, "train", {"objective": objective, **OPTIMISATION, **settings}, inputs, **CPU)


# init


def test_init_makes_a_model_that_speaks_its_alphabet(tmp_path: Path) -> None:
    made = steps.build(tmp_path / "blank", "init", {"model": TINY, "alphabet": "abc :"})
    tokenizer = chat.load_tokenizer(made.path)
    ids = chat.render(tokenizer, [{"role": "user", "content": "cab"}])
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|user|>", "c", "a", "b", "<|end|>", "<|assistant|>"]
    answer = chat.response_ids(tokenizer, "a b:")
    assert answer[-1] == tokenizer.eos_token_id
    assert chat.texts(tokenizer, [answer], [()]) == ["a b:"]
    config = json.loads((made.path / "config.json").read_text())
    assert config["vocab_size"] == made.manifest.facts["vocabulary"] == len(tokenizer) == 12
    assert config["eos_token_id"] == tokenizer.eos_token_id
    assert made.manifest.facts["architecture"] == "LlamaForCausalLM"


def test_init_without_an_alphabet_writes_any_text(tmp_path: Path) -> None:
    made = steps.build(tmp_path / "blank", "init", {"model": TINY, "bos": True})
    tokenizer = chat.load_tokenizer(made.path)
    text = "Grüße, 你好!\n\t  <|end|> 🙂"
    ids = chat.response_ids(tokenizer, text)
    assert len(ids) == len(text.encode()) + 1
    assert chat.texts(tokenizer, [ids], [()]) == [text]
    rendered = chat.render(tokenizer, [{"role": "user", "content": "x"}])
    assert rendered[0] == tokenizer.bos_token_id and rendered.count(tokenizer.bos_token_id) == 1


def test_init_depends_on_its_seed_alone(tmp_path: Path) -> None:
    import torch

    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(hash(name) % 1000)
        digests.append(steps.build(tmp_path / name, "init", {"model": TINY, "alphabet": "abc"}, seed=seed).manifest.digest)
    assert digests[0] == digests[1] != digests[2]


def test_init_says_what_is_wrong_with_a_config(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="needs a 'model_type'"):
        init.Config(model={"hidden_size": 3})
    with pytest.raises(ValidationError, match="vocab_size: the tokenizer decides"):
        init.Config(model={**TINY, "vocab_size": 3})
    with pytest.raises(Refusal, match="has no field hiden_size"):
        steps.build(tmp_path / "a", "init", {"model": {**TINY, "hiden_size": 8}})
    with pytest.raises(Refusal, match="transformers makes no 'lama'"):
        steps.build(tmp_path / "b", "init", {"model": {**TINY, "model_type": "lama"}})


# adopt


def test_adopt_records_and_copies_nothing(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "given")
    made = steps.build(tmp_path / "adopted", "adopt", {"model": str(folder)})
    assert {path.name for path in made.path.iterdir()} == {"adopted.json", "manifest.json"}
    record = json.loads((made.path / "adopted.json").read_text())
    assert record["files"]["model.safetensors"] == digest_of(folder / "model.safetensors")
    assert models.of(made) == models.Model(folder)
    assert made.manifest.facts["files"] == len(record["files"])


def test_adopt_refuses_what_is_no_model(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    unweighted = tmp_path / "unweighted"
    unweighted.mkdir()
    (unweighted / "config.json").write_text("{}")
    (unweighted / "pytorch_model.bin").write_bytes(b"x")
    cases = [
        ({"model": str(tmp_path / "absent")}, "there is no model folder .*absent; check the path"),
        ({"model": "./absent"}, "there is no model folder"),
        ({"model": str(empty)}, "has no config.json"),
        ({"model": str(unweighted)}, "has no weights in safetensors"),
        ({"model": str(unweighted), "revision": "main"}, "'main' says nothing about the folder"),
    ]
    for i, (settings, message) in enumerate(cases):
        with pytest.raises(Refusal, match=message):
            steps.build(tmp_path / f"adopted{i}", "adopt", settings)


def test_adopt_from_a_hub_that_cannot_be_reached_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Refusal, match="the hub cannot be asked for org/name@v1 .*adopt a local folder instead"):
        steps.build(tmp_path / "adopted", "adopt", {"model": "org/name", "revision": "v1"})


# logprobs


def test_logprobs_are_the_models_own_for_every_response(tmp_path: Path, policy: Artifact) -> None:
    from models import forward

    source = pairs(tmp_path / "pairs")
    made = reference(tmp_path / "reference", policy, source)
    table = rows.read(made.path)
    assert table["id"].to_pylist() == rows.read(source.path)["id"].to_pylist()
    loaded, tokenizer = forward.load(models.Model(policy.path), "float32", "cpu"), chat.load_tokenizer(policy.path)
    for i, both in enumerate(table["logprobs"].to_pylist()):
        row = pair_row(i)
        prompt = chat.render(tokenizer, row["prompt"])
        for found, side in zip(both, ("chosen", "rejected"), strict=True):
            response = chat.response_ids(tokenizer, row[side][0]["content"])
            (want,) = canary.measure(loaded, [prompt + response])
            assert np.abs(np.asarray(found) - np.asarray(want[len(prompt) - 1 :])).max() < 2e-5
    facts = made.manifest.facts
    assert facts["rows"] == 12 and facts["responses"] == 24 and facts["retokenised"] == 12
    flat = [value for both in table["logprobs"].to_pylist() for each in both for value in each]
    assert facts["tokens"] == len(flat) and facts["mean_token_logprob"] == pytest.approx(np.mean(flat), rel=1e-5)


def test_logprobs_do_not_depend_on_shards_or_batches_and_are_cut_on_request(tmp_path: Path, policy: Artifact) -> None:
    source = pairs(tmp_path / "pairs")
    one = rows.read(reference(tmp_path / "one", policy, source).path)["logprobs"].to_pylist()
    other = steps.build(
        tmp_path / "other", "logprobs", {}, {"model": policy, "rows": source}, forward={"tokens_per_batch": 100000}, rows_per_shard=5
    )
    for a, b in zip(one, rows.read(other.path)["logprobs"].to_pylist(), strict=True):
        for x, y in zip(a, b, strict=True):
            assert np.abs(np.asarray(x) - np.asarray(y)).max() < 2e-5
    short = rows.read(reference(tmp_path / "short", policy, source, max_length=20).path)["logprobs"].to_pylist()
    assert any(len(x) < len(y) for a, b in zip(short, one, strict=True) for x, y in zip(a, b, strict=True))
    with pytest.raises(Refusal, match="with at least this max_length"):
        trained(
            tmp_path / "policy",
            policy,
            source,
            "dpo",
            steps.build(tmp_path / "s2", "logprobs", {"max_length": 20}, {"model": policy, "rows": source}),
        )


def test_logprobs_of_candidates_keep_empty_responses_in_their_place(tmp_path: Path, policy: Artifact) -> None:
    mine = chat.fingerprint(chat.load_tokenizer(policy.path))
    responses = [{"text": "", "token_ids": []}, {"text": "ab", "token_ids": [20, 21]}]
    body = [{"id": "1", "prompt": steps.prompt("q"), "prompt_token_ids": [5, 6], "tokenizer": mine, "responses": responses}]
    body.append({"id": "2", "prompt": steps.prompt("q"), "prompt_token_ids": [5, 6], "tokenizer": mine, "responses": []})
    made = reference(tmp_path / "reference", policy, steps.table(tmp_path / "rows", "candidates", body))
    assert [[len(each) for each in row] for row in rows.read(made.path)["logprobs"].to_pylist()] == [[0, 2], []]


# train


def test_training_starts_at_the_reference(tmp_path: Path, policy: Artifact) -> None:
    source = pairs(tmp_path / "pairs")
    scored = reference(tmp_path / "reference", policy, source)
    facts = trained(tmp_path / "dpo", policy, source, "dpo", scored).manifest.facts
    assert facts["loss_first"] == pytest.approx(math.log(2), abs=1e-6)
    assert facts["loss_last"] < facts["loss_first"]
    one_batch = trained(tmp_path / "sppo", policy, source, {"kind": "sppo", "beta": 0.01}, scored, batch_size=12).manifest.facts
    want = np.mean([0.5 * (100 * (i % 5) / 10) ** 2 + 0.5 * (100 * (i % 4) / 10) ** 2 for i in range(12)])
    assert one_batch["loss_first"] == pytest.approx(want, rel=1e-5)
    assert one_batch["rows"] == one_batch["units"] == 12 and one_batch["steps"] == 1


def test_a_second_round_starts_from_the_first(tmp_path: Path, policy: Artifact) -> None:
    source = pairs(tmp_path / "pairs")
    first = trained(tmp_path / "first", policy, source, "dpo", reference(tmp_path / "r1", policy, source), num_train_epochs=3)
    again = reference(tmp_path / "r2", first, source)
    second = trained(tmp_path / "second", first, source, "dpo", again)
    assert second.manifest.facts["loss_first"] == pytest.approx(math.log(2), abs=1e-6)
    stale = trained(tmp_path / "stale", first, source, "dpo", reference(tmp_path / "r3", policy, source))
    assert stale.manifest.facts["loss_first"] < 0.69


def test_demonstrations_are_trained_on_with_sft(tmp_path: Path, policy: Artifact) -> None:
    body = [{"id": str(i), "prompt": steps.prompt(f"say {i}"), "responses": [{"text": f"it is {i}"}]} for i in range(24)]
    made = trained(
        tmp_path / "policy", policy, steps.table(tmp_path / "rows", "candidates", body), "sft", num_train_epochs=5, learning_rate=3e-3
    )
    facts = made.manifest.facts
    assert facts["retokenised"] == facts["units"] == 24 and facts["steps"] == 15
    assert facts["loss_last"] < 0.7 * facts["loss_first"]


def test_train_says_what_a_recipe_lacks() -> None:
    def config(**changes: Any) -> train.Config:
        return train.Config.model_validate(
            {"model": "policy@prev", "rows": "pairs", "objective": "dpo", "reference": "reference", **changes}
        )

    config()
    with pytest.raises(ValidationError, match=r"objective 'dpo' needs the reference's .*stage: logprobs, model: policy@prev, rows: pairs"):
        config(reference=None)
    with pytest.raises(ValidationError, match="objective 'sft' reads none; leave the field out"):
        config(objective="sft")
    with pytest.raises(ValidationError, match="schedule_total_epochs: 1 is less than num_train_epochs 2"):
        config(num_train_epochs=2, schedule_total_epochs=1)
    config(objective={"kind": "dpo", "reference_free": True}, reference=None)


def test_train_refuses_rows_that_do_not_fit(tmp_path: Path, policy: Artifact) -> None:
    demonstrations = steps.table(tmp_path / "rows", "candidates", [{"id": "1", "prompt": steps.prompt("q"), "responses": [{"text": "a"}]}])
    with pytest.raises(Refusal, match="objective 'dpo' trains on pairs"):
        trained(tmp_path / "a", policy, demonstrations, {"kind": "dpo", "reference_free": True})
    with pytest.raises(Refusal, match="has no rows to train on"):
        trained(tmp_path / "b", policy, steps.table(tmp_path / "none", "pairs", []), {"kind": "dpo", "reference_free": True})
    unrated = pairs(tmp_path / "unrated", chosen_win_rate=None)
    with pytest.raises(Refusal, match="12 of 12 pairs have no win rate"):
        trained(tmp_path / "c", policy, unrated, "sppo", reference(tmp_path / "reference", policy, unrated))


def test_the_identity_of_training_is_its_settings_and_not_the_machine() -> None:
    body = {"model": "policy", "rows": "pairs", "objective": {"kind": "sppo"}, "reference": "reference"}
    plain = plugin.settings(train.Config.model_validate(body))
    assert plain == {"objective": {"kind": "sppo", "version": 1}}
    assert plugin.settings(train.Config.model_validate({**body, "learning_rate": 5e-7}))["learning_rate"] == 5e-7


def test_estimates_and_uses() -> None:
    config = train.Config.model_validate(
        {"model": "m", "rows": "p", "objective": "dpo", "reference": "r", "max_length": 10, "num_train_epochs": 2}
    )
    assert train.estimate(config, {"rows": 5, "model": 1, "reference": 5}, 1) == {"rows": 5, "tokens": 200}
    assert train.uses(config) == {"trainer"} and logprobs.uses(logprobs.Config(model="m", rows="p")) == {"forward"}
    for kind in ("torch", "deepspeed"):
        module = load("trainers", kind)
        assert module.placement(module.Config()).workers == 1
    assert load("trainers", "deepspeed").placement(load("trainers", "deepspeed").Config(gpus=8)).workers == 8
    assert set(Optimisation.model_fields) < set(train.Config.model_fields)
