"""Sampling from a geometric mixture of two policies: at its ends it is each of them, between it is what the formula says."""

import math

import pytest

from models import Model

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from engines import transformers  # noqa: E402
from pipeline import rows  # noqa: E402
from pipeline.errors import Refusal  # noqa: E402
from stages import generate  # noqa: E402
from tests.support import engine_contract as contract  # noqa: E402
from tests.support import steps  # noqa: E402
from tests.support.engine_contract import ask, forward  # noqa: E402
from tests.support.models import tiny_llama  # noqa: E402

CONFIG = transformers.Config(threads=1)
REQUESTS = [ask("sort: " + "hgfa" * i, n=3, max_new_tokens=16, seed=i) for i in range(4)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("mixture")
    return tiny_llama(place / "policy", seed=1), tiny_llama(place / "reference", seed=2)


def answers(opened, requests=REQUESTS):
    with opened as engine:
        return engine.complete(requests)


def mixed(folders, weight):
    return transformers.open_mixture(CONFIG, *map(Model, folders), weight, seed=0)


def test_weight_zero_is_the_model_and_weight_one_the_other(folders):
    plain = [answers(transformers.open(CONFIG, Model(folder), seed=0)) for folder in folders]
    assert answers(mixed(folders, 0.0)) == plain[0]
    assert answers(mixed(folders, 1.0)) == plain[1]
    assert plain[0] != plain[1] and answers(mixed(folders, 0.5)) not in plain


@pytest.mark.parametrize("weight", [0.125, 0.5])
def test_the_log_probabilities_are_the_formulas(folders, weight):
    for completion in answers(mixed(folders, weight)):
        for response in completion.responses:
            ids = (*completion.prompt_token_ids, *response.token_ids)
            pi, ref = (forward(folder, ids) for folder in folders)
            wanted = torch.log_softmax(weight * ref + (1 - weight) * pi, dim=-1)
            at = torch.arange(len(completion.prompt_token_ids) - 1, len(ids) - 1)
            found = torch.tensor(response.logprobs).double()
            torch.testing.assert_close(found, wanted[at, torch.tensor(response.token_ids)], atol=1e-4, rtol=0)


def test_tokens_are_drawn_from_the_mixture(folders):
    weight, count = 0.5, 1500
    [completion] = answers(mixed(folders, weight), [ask("sort: ba", n=count, max_new_tokens=1, seed=3)])
    pi, ref = (forward(folder, completion.prompt_token_ids)[-1] for folder in folders)
    wanted = torch.softmax(weight * ref + (1 - weight) * pi, dim=-1)
    found = torch.bincount(torch.tensor([each.token_ids[0] for each in completion.responses]), minlength=len(wanted)) / count

    def distance(other):
        return float((found - other).abs().sum()) / 2

    assert distance(wanted) < 0.5 * min(distance(pi.exp()), distance(ref.exp()))
    assert distance(wanted) < math.sqrt(len(wanted) / count)


def test_batches_do_not_show_and_options_are_scored_by_the_mixture(folders):
    one_by_one = transformers.Config(threads=1, tokens_per_batch=1)
    whole, alone = answers(mixed(folders, 0.5)), answers(transformers.open_mixture(one_by_one, *map(Model, folders), 0.5, seed=0))
    assert [[r.token_ids for r in c.responses] for c in whole] == [[r.token_ids for r in c.responses] for c in alone]
    [scored] = answers(mixed(folders, 0.5), [ask("sort: ba", options=("a",))])
    pi, ref = (forward(folder, scored.prompt_token_ids)[-1] for folder in folders)
    assert scored.option_logprobs[0] == pytest.approx(float(torch.log_softmax((pi + ref) / 2, dim=-1)[one_id(folders[0], "a")]), abs=1e-4)


def test_the_mixture_goes_on_with_what_is_begun(folders):
    with mixed(folders, 0.5) as engine:
        contract.what_is_begun_is_continued(engine, folders[0], tolerance=1e-4)
        contract.what_is_begun_keeps_its_seed(engine, folders[0], tolerance=1e-4)


def one_id(folder, text):
    from models.chat import load_tokenizer, text_ids

    [id] = text_ids(load_tokenizer(folder), text)
    return id


def test_models_that_do_not_belong_together_are_refused(folders, tmp_path):
    with pytest.raises(Refusal, match="have different tokenizers; mix models that come from one"):
        answers(mixed((folders[0], tiny_llama(tmp_path / "other", bos=True)), 0.5))
    model = AutoModelForCausalLM.from_pretrained(folders[1])
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model.save_pretrained(tmp_path / "wider")
    AutoTokenizer.from_pretrained(folders[1]).save_pretrained(tmp_path / "wider")
    with pytest.raises(Refusal, match="one model has logits for 107 tokens, the other for 115"):
        answers(mixed((folders[0], tmp_path / "wider"), 0.5))


# generate


PROMPTS = [{"id": f"p{i}", "prompt": steps.prompt("sort: " + "dcba"[:i]), "meta": {}} for i in range(5)]


def _generated(path, folders, settings, engine, **kwargs):
    place = path.parent / f"{path.name}-inputs"
    place.mkdir()
    inputs = {"prompts": steps.table(place / "prompts", "prompts", PROMPTS)}
    for slot, folder in zip(("model", "mixture_with"), folders, strict=False):
        (place / slot).symlink_to(folder)
        inputs[slot] = steps.folder(place / slot)
    return steps.build(path, "generate", {"n": 2, "max_new_tokens": 8, **settings}, inputs, engine=engine, **kwargs)


def test_the_stage_samples_from_the_mixture_whatever_the_shards(folders, tmp_path):
    engine = {"kind": "transformers", "threads": 1}
    made = [
        _generated(tmp_path / name / "samples", folders[:count], settings, engine, rows_per_shard=size)
        for name, count, settings, size in (
            ("plain", 1, {}, 5), ("none", 2, {"mixture_weight": 0.0}, 5), ("half", 2, {}, 5), ("split", 2, {}, 2),
        )
        if not (tmp_path / name).mkdir()
    ]  # fmt: skip
    plain, none, half, split = (rows.read(each.path).to_pylist() for each in made)
    assert none == plain

    def ids(made):
        return [[response["token_ids"] for response in row["responses"]] for row in made]

    assert ids(half) != ids(plain) and ids(split) == ids(half)


@pytest.mark.parametrize("engine", ["canned", {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}, "vllm"])
def test_engines_that_hold_one_model_refuse(folders, tmp_path, engine):
    kind = engine if isinstance(engine, str) else engine["kind"]
    with pytest.raises(Refusal, match=f"round-01/samples: engine '{kind}' samples from one model alone and cannot mix two"):
        _generated(tmp_path / "samples", folders, {}, engine)


def test_a_weight_without_a_mixture_is_refused():
    with pytest.raises(ValueError, match="mixture_weight: there is no mixture"):
        generate.Config(model="m", prompts="p", mixture_weight=0.5)
