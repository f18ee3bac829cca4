"""LLM judges and reward models on tiny real models: what they report is what a plain forward gives."""

import math

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

from engines import Request  # noqa: E402
from judges import Group, pairwise, reward_model, rubric  # noqa: E402
from pipeline.errors import Refusal  # noqa: E402
from tests.support.engine_contract import forward  # noqa: E402
from tests.support.models import tiny_llama, tiny_reward  # noqa: E402
from tests.support.steps import folder, tools  # noqa: E402

ASKED = ({"role": "user", "content": "sort: cab"},)
GROUPS = [Group("g", ASKED, ("abc", "cab", "abc", ""), {}), Group("h", ASKED, ("a</s><s>b", "b"), {})]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Tools of a judge over a tiny Llama, one token a character, and the model's folder."""
    path = tmp_path_factory.mktemp("judge")
    model = tiny_llama(path / "model", bos=True, context=4096)
    made = tools(path / "judged", inputs={"model": (folder(model),)}, engine={"kind": "transformers", "threads": 1})
    yield made, model
    made.close()


def _probability(completion, model, options: tuple[str, ...]) -> list[float]:
    """P of each option by one forward over prompt and option, normalised over all of them."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = []
    for option in options:
        ids = tokenizer(option, add_special_tokens=False)["input_ids"]
        logps_TV = forward(model, (*completion.prompt_token_ids, *ids))
        at = len(completion.prompt_token_ids) - 1
        found.append(math.exp(sum(float(logps_TV[at + i, id]) for i, id in enumerate(ids))))
    return [p / sum(found) for p in found]


def _prompts_of(module, config, groups, given, monkeypatch) -> tuple[list, list]:
    """The verdicts of a judge, and what its engine was asked and answered."""
    engine = given.engine("model")
    seen: list[tuple[Request, object]] = []

    def complete(requests):
        answers = type(engine).complete(engine, requests)
        seen.extend(zip(requests, answers, strict=True))
        return answers

    monkeypatch.setattr(engine, "complete", complete, raising=False)
    return module.judge(config, groups, given), seen


def test_both_orders_by_the_probabilities_of_a_real_model(asked, monkeypatch):
    given, model = asked
    verdicts, seen = _prompts_of(pairwise, pairwise.Config(model="m"), GROUPS[:1], given, monkeypatch)
    assert len(seen) == 2 * 3, "three different texts"
    for place, (i, j, first, second) in enumerate(verdicts[0].detail["orders"]):
        for reported, (request, completion) in zip((first, second), seen[2 * place : 2 * place + 2], strict=True):
            a, also_a, b, also_b = _probability(completion, model, request.options)
            assert request.options == ("A", " A", "B", " B")
            assert reported == pytest.approx(a + also_a, abs=1e-5)
        assert verdicts[0].wins[i][j] == pytest.approx((first + 1 - second) / 2)
    assert verdicts[0].scores[0] == verdicts[0].scores[2] and verdicts[0].wins[0][2] == 0.5


def test_the_expected_score_is_the_sum_over_options_of_a_real_model(asked, monkeypatch):
    given, model = asked
    verdicts, seen = _prompts_of(rubric, rubric.Config(model="m", read="probabilities"), GROUPS, given, monkeypatch)
    assert [len(verdict.scores) for verdict in verdicts] == [4, 2] and len(seen) == 3 + 2
    reported = [verdicts[0].scores[i] for i in (0, 1, 3)] + list(verdicts[1].scores)
    for score, (request, completion) in zip(reported, seen, strict=True):
        p = _probability(completion, model, request.options)
        assert score == pytest.approx(sum(int(option) * each for option, each in zip(request.options, p, strict=True)), abs=1e-4)
    assert 0 < verdicts[0].tally["option_mass"][0] < 3


def test_control_tokens_of_a_response_do_not_reach_the_judge(asked, monkeypatch):
    given, model = asked
    tokenizer = AutoTokenizer.from_pretrained(model)
    counts = {}
    for protect in (True, False):
        with monkeypatch.context() as patch:
            config = rubric.Config(model="m", read="probabilities", protect=protect)
            _, seen = _prompts_of(rubric, config, GROUPS[1:], given, patch)
        counts[protect] = [completion.prompt_token_ids.count(tokenizer.eos_token_id) for _, completion in seen]
    assert counts == {True: [1, 1], False: [2, 1]}, "the end of the user's turn, and one that the response smuggled in"


def test_sampled_verdicts_of_a_model_that_cannot_judge_are_undecided(asked):
    """A random model writes no verdict: nothing is decided, and nothing is made up."""
    given, _ = asked
    config = rubric.Config(model="m", samples=2, max_new_tokens=8, retries=1)
    verdicts = rubric.judge(config, GROUPS[:1], given)
    assert verdicts[0].scores == (None,) * 4 and verdicts[0].tally["parse_failures"] == (12, 12)
    assert verdicts == rubric.judge(config, GROUPS[:1], given), "the same seeds, the same samples"


# reward models


def _plain_reward(model_folder, chat: str) -> float:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, dtype=torch.float32)
    ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        return float(model(input_ids=torch.tensor([ids])).logits[0, 0])


@pytest.mark.parametrize("pad", ["pad", "eos", "none"])
@pytest.mark.parametrize("budget", [1, 60, 4096])
def test_rewards_equal_one_chat_at_a_time(budget, pad, tmp_path):
    """In batches of any size, whatever the model pads with, be it the token that ends every chat."""
    model = tiny_reward(tmp_path / "model", pad=pad)
    given = tools(tmp_path / "judged", inputs={"model": (folder(model),)}, forward={"tokens_per_batch": budget})
    verdicts = reward_model.judge(reward_model.Config(model="m"), GROUPS, given)
    texts = [[*GROUPS[0].responses], ["a  b", "b"]]  # control tokens are spaces to a reward model
    for verdict, each in zip(verdicts, texts, strict=True):
        wanted = [_plain_reward(model, f"<s><|user|>sort: cab</s><|assistant|>{text}</s>") for text in each]
        assert verdict.scores == pytest.approx(wanted, abs=1e-5)
        assert verdict.wins[0][1] == pytest.approx(1 / (1 + math.exp(wanted[1] - wanted[0])), abs=1e-5)
    given.close()


def test_a_chat_beyond_the_context_is_undecided(tmp_path):
    model = tiny_reward(tmp_path / "model", context=64)
    given = tools(tmp_path / "judged", inputs={"model": (folder(model),)})
    (verdict,) = reward_model.judge(reward_model.Config(model="m"), [Group("g", ASKED, ("x", "y" * 60), {})], given)
    assert verdict.scores[0] is not None and verdict.scores[1] is None and verdict.wins is None and verdict.tally["too_long"] == (1, 2)


def test_what_is_no_reward_model_is_refused(tmp_path):
    """transformers would make up a head for a plain language model without a word that stops anybody."""
    for name, make, sentence in (
        (
            "llama",
            lambda path: tiny_llama(path),
            "1 weights of its LlamaForSequenceClassification are missing .*, score.weight among them",
        ),
        ("two", lambda path: tiny_reward(path, labels=2), "has 2 labels, and a reward is one number"),
    ):
        given = tools(tmp_path / f"{name}-judged", inputs={"model": (folder(make(tmp_path / name)),)})
        with pytest.raises(Refusal, match=sentence):
            reward_model.judge(reward_model.Config(model="m"), GROUPS, given)
