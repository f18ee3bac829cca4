"""LLM judges on vLLM: the verdicts are those of the plain transformers engine, and what prompts share is computed once."""

from dataclasses import replace

import pytest
import torch

from judges import Group, pairwise, rubric
from tests.support.models import tiny_llama
from tests.support.plugins.grader import shared
from tests.support.steps import folder, tools

pytestmark = pytest.mark.real
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ENGINES = {
    "vllm": {
        "kind": "vllm", "device": DEVICE, "dtype": "float32", "kv_cache_gib": 1.0, "threads": 1 if DEVICE == "cpu" else None,
        "max_num_seqs": 64, "own_process": False,
    },
    "transformers": {"kind": "transformers", "device": DEVICE},
}  # fmt: skip
BLOCK = 128 if DEVICE == "cpu" else 16
TEXTS = tuple(f"the answer is {i}, because " + "of this and that. " * 20 for i in range(4))
GROUPS = [Group(f"g{i}", ({"role": "user", "content": f"{i}: " + "a long question " * 20},), TEXTS, {}) for i in range(3)]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Tools of the same judge on both engines; one token is one character."""
    path = tmp_path_factory.mktemp("judge")
    model = folder(tiny_llama(path / "model", bos=True, context=4096))
    made = {name: tools(path / "judged", inputs={"model": (model,)}, engine=engine) for name, engine in ENGINES.items()}
    yield made
    for each in made.values():
        each.close()


@pytest.mark.parametrize(
    "module, config",
    [(pairwise, pairwise.Config(model="m", against="first")), (rubric, rubric.Config(model="m", read="probabilities"))],
    ids=["pairwise", "rubric"],
)
def test_probabilities_are_those_of_a_plain_engine(given, module, config):
    ours, plain = (module.judge(config, GROUPS, given[name]) for name in ("vllm", "transformers"))
    for one, other in zip(ours, plain, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-3)
        assert len(set(other.scores)) == len(TEXTS), "a test that could not tell them apart would show nothing"


@pytest.mark.parametrize(
    "module, config",
    [
        (rubric, rubric.Config(model="m", samples=1, retries=0, max_new_tokens=4)),
        (pairwise, pairwise.Config(model="m", mode="strict", retries=0, max_new_tokens=4)),
    ],
    ids=["rubric", "pairwise"],
)
def test_common_beginnings_are_computed_once(given, module, config, monkeypatch):
    """Prompt tokens that came from the cache, against all that prompts share with an earlier one in whole blocks."""
    name = module.__name__
    fresh = [
        replace(group, id=name + group.id, prompt=({"role": "user", "content": name + group.prompt[0]["content"]},)) for group in GROUPS
    ]
    engine = given["vllm"].engine("model")
    prompts: list[str] = []

    def complete(requests):
        prompts.extend(request.messages[0]["content"] for request in requests)
        return type(engine).complete(engine, requests)

    monkeypatch.setattr(engine, "complete", complete, raising=False)
    verdicts = module.judge(config, fresh, given["vllm"])
    cached, total = (sum(verdict.tally["cached_share"][i] for verdict in verdicts) for i in (0, 1))
    # One token a character, and two before the prompt: BOS and the user's turn.
    common = [max((shared(prompt, before) + 2 for before in prompts[:i]), default=0) for i, prompt in enumerate(prompts)]
    shareable = sum(length // BLOCK * BLOCK for length in common)
    print(
        f"\n{name}: {len(prompts)} calls, {total:.0f} prompt tokens, {cached / total:.1%} cached, {shareable / total:.1%} in common blocks"
    )
    assert cached >= 0.9 * shareable and cached / total > 0.5
