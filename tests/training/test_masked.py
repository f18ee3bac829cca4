"""Masked tokens are context and nothing else: no gradient, no weight, no reference; and the rest is equal to the bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import objectives
from models import Model, chat, score, states
from models import forward as forwards
from models.tokens import token_rows
from pipeline import plugin, rows
from pipeline.errors import Refusal
from tests.support.models import tiny_llama
from tests.support.training_jobs import first_step, group_row, job, pair_row
from training import batches, data

pytestmark = pytest.mark.usefixtures("one_thread")
ASK = [{"role": "user", "content": "what is 2+2?"}]
TURNS = [
    {"role": "assistant", "content": "let me add"},
    {"role": "tool", "content": "the sum is 4"},
    {"role": "assistant", "content": "four"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return chat.load_tokenizer(model)


def tokenised(tokenizer: Any, row: dict[str, Any], masked: bool = True) -> dict[str, Any]:
    """A row with token ids, and masks over every third token."""
    ids = {"tokenizer": chat.fingerprint(tokenizer), "prompt_token_ids": chat.render(tokenizer, row["prompt"])}

    def both(text: str) -> tuple[list[int], list[bool] | None]:
        made = chat.response_ids(tokenizer, text)
        return made, [i % 3 != 1 for i in range(len(made))] if masked else None

    if "responses" in row:
        made = [dict(zip(("token_ids", "mask"), both(each["text"]), strict=True)) for each in row["responses"]]
        return {**row, **ids, "responses": [{**each, **more} for each, more in zip(row["responses"], made, strict=True)]}
    for side in ("chosen", "rejected"):
        ids[f"{side}_token_ids"], ids[f"{side}_mask"] = both(row[side][-1]["content"])
    return {**row, **ids}


def body(tokenizer: Any, table: str, masked: bool = True) -> list[dict[str, Any]]:
    made = [pair_row(i, weight=1.0 + i % 3) for i in range(6)] if table == "pairs" else [group_row(i) for i in range(6)]
    return [tokenised(tokenizer, row, masked) for row in made]


def two_turns(tokenizer: Any) -> dict[str, Any]:
    return {"id": "tools", "prompt": ASK, "responses": [{"text": "four", "messages": TURNS}]}


@pytest.mark.parametrize("kind", plugin.names("objectives"))
def test_masked_tokens_cannot_show_in_any_objective(tmp_path: Path, model: Path, tokenizer: Any, kind: str) -> None:
    """Whatever stands in the masked places of a batch, losses, terms and gradients are the same."""
    choice = plugin.parse("objectives", kind)
    table = "judged" if "groups" in objectives.needs(choice) else "pairs"
    made = job(tmp_path, model, table, body(tokenizer, table), kind, past=(model, model), batch_size=6)
    gradient, told = first_step(made, 10_000)
    assert any(value.abs().max() > 0 for value in gradient.values())
    examples = data.read(made)
    assert examples.kept_R is not None and not examples.known_LR[:, ~examples.kept_R].any()
    # The same examples with other numbers where nobody may look.
    noise = np.random.default_rng(0).normal(size=examples.known_LR.shape).astype(np.float32)
    loud = replace(examples, known_LR=np.where(examples.kept_R, examples.known_LR, noise))
    if examples.phrases_R is not None:
        loud = replace(loud, phrases_R=np.where(examples.kept_R, examples.phrases_R, 9))
    again, also = first_step(made, 10_000, examples=loud)
    assert also == told
    assert all(torch.equal(value, again[name]) for name, value in gradient.items())
    bare = job(tmp_path / "plain", model, table, body(tokenizer, table, False), kind, past=(model, model), batch_size=6)
    assert first_step(bare, 10_000)[1]["grad_norm"] != told["grad_norm"] or first_step(bare, 10_000)[1]["loss"] != told["loss"]


@pytest.mark.parametrize("kind", plugin.names("objectives"))
def test_objectives_look_at_no_masked_token(
    tmp_path: Path, model: Path, tokenizer: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with numbers in the masked places of all that an objective is given by tokens, the policy's own too."""
    choice = plugin.parse("objectives", kind)
    table = "judged" if "groups" in objectives.needs(choice) else "pairs"
    made = job(tmp_path, model, table, body(tokenizer, table), kind, past=(model, model), batch_size=6)
    gradient, told = first_step(made, 10_000)
    build, draw = batches.objective_batch, torch.Generator().manual_seed(0)
    filled: list[str] = []

    def loud(value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(value.shape, generator=draw).abs() + 1
        return torch.where(mask.expand_as(value), value, noise.to(value.dtype))

    def noisy(*given: Any) -> objectives.Batch:
        batch = build(*given)
        changed = {}
        for name, value in vars(batch).items():
            if name.endswith("NT") and name != "mask_NT" and value is not None:
                changed[name] = loud(value, batch.mask_NT)
        extra = tuple(
            replace(
                each,
                logps_UT=loud(each.logps_UT, each.mask_UT),
                ref_logps_UT=None if each.ref_logps_UT is None else loud(each.ref_logps_UT, each.mask_UT),
            )
            for each in batch.extra
        )
        filled.extend(changed)
        return replace(batch, extra=extra, **changed)

    monkeypatch.setattr(batches, "objective_batch", noisy)
    again, also = first_step(made, 10_000)
    assert "logps_NT" in filled and also == told
    assert all(torch.equal(value, again[name]) for name, value in gradient.items())


def test_masked_tokens_have_no_gradient_and_the_rest_is_equal_to_the_bit(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    loaded = forwards.load(Model(model), "float32", "cpu")
    found = []
    for masked in (True, False):
        made = job(tmp_path / str(masked), model, "pairs", body(tokenizer, "pairs", masked), "sft")
        examples = data.read(made)
        micro = batches.MicroBatch.of(examples, np.arange(len(examples.units_UW)), "cpu")
        hidden_SH = forwards.hidden(loaded, micro.laid).detach().requires_grad_()
        logps_NT = forwards.seen(loaded, micro.laid, hidden_SH)["logps"]
        logps_NT.sum().backward()
        found.append((examples, micro.laid, logps_NT.detach(), hidden_SH.grad))
    (examples, laid, logps_NT, grad_SH), (whole, all_laid, all_NT, all_grad_SH) = found
    assert laid.kept_R is not None and all_laid.kept_R is None
    assert torch.equal(logps_NT[laid.mask_NT], all_NT[laid.mask_NT]) and not logps_NT[~laid.mask_NT].any()
    masked_at = laid.at_R[~laid.kept_R]
    assert not grad_SH[masked_at].any() and all_grad_SH[masked_at].any()
    units = np.arange(len(examples.units_UW))
    for unit in ("token", "chosen_token"):
        assert 0 < batches.weight(examples, units, unit) < batches.weight(whole, units, unit)
    assert batches.weight(examples, units, "token") == int(laid.mask_NT.sum())
    assert examples.facts["masked"] == int((~laid.kept_R).sum()) and "masked" not in whole.facts


@pytest.mark.parametrize("table", ["pairs", "candidates"])
def test_masked_tokens_have_no_reference(model: Path, tokenizer: Any, table: str) -> None:
    made = (
        [rows.from_pylist(table, body(tokenizer, "pairs" if table == "pairs" else "judged", m)) for m in (True, False)]
        if (table == "pairs")
        else [
            rows.from_pylist(table, [{k: v for k, v in row.items() if k != "scores"} for row in body(tokenizer, "judged", m)])
            for m in (True, False)
        ]
    )
    loaded = forwards.load(Model(model), "float32", "cpu")
    (masked, facts), (whole, all_facts) = (score.score(loaded, tokenizer, each, table, None, 300) for each in made)
    kept = 0
    for mine, theirs in zip(masked["logprobs"].to_pylist(), whole["logprobs"].to_pylist(), strict=True):
        for some, full in zip(mine, theirs, strict=True):
            assert some == [None if i % 3 == 1 else value for i, value in enumerate(full)]
            kept += sum(value is not None for value in some)
    assert facts["tokens"] == kept < all_facts["tokens"] and facts["truncated"] == all_facts["truncated"] == 0
    seen, full = (states.look(loaded, tokenizer, each, table, None, 300) for each in made)
    for mine, theirs in zip(seen, full, strict=True):
        for some, whole_one in zip(mine, theirs, strict=True):
            assert np.array_equal(some.logps_R, whole_one.logps_R[some.kept_T]) and len(some.logps_R) == some.kept_T.sum()


def test_masked_turns_of_others_when_a_row_is_tokenised_anew(tokenizer: Any) -> None:
    (row,) = token_rows(rows.from_pylist("candidates", [two_turns(tokenizer)]), "candidates", tokenizer)
    (response,) = row.responses
    assert row.retokenised and response.mask is not None
    kept, all_ids = response.ids[response.mask], np.concatenate([row.prompt, response.ids])
    assert tokenizer.decode(kept) == "let me add</s>four</s>"
    assert tokenizer.decode(response.ids[~response.mask]) == "<|tool|>the sum is 4</s><|assistant|>"
    assert tokenizer.decode(all_ids) == tokenizer.apply_chat_template([*ASK, *TURNS], tokenize=False)


def test_masked_two_turn_rows_train_on_the_policys_turns_alone(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    made = job(tmp_path, model, "candidates", [two_turns(tokenizer)], "sft")
    examples = data.read(made)
    assert examples.trained_N.tolist() == [len("let me add") + 1 + len("four") + 1]
    assert batches.weight(examples, np.arange(1), "token") == examples.trained_N[0] < examples.response_lengths_N[0]


def test_masked_pairs_of_several_messages_are_tokenised_alike(tokenizer: Any) -> None:
    pair = {"id": "a", "prompt_id": "p", "prompt": ASK, "chosen": TURNS, "rejected": [{"role": "assistant", "content": "five"}]}
    (row,) = token_rows(rows.from_pylist("pairs", [pair]), "pairs", tokenizer)
    assert tokenizer.decode(row.responses[0].ids[row.responses[0].kept]) == "let me add</s>four</s>"
    assert row.responses[1].mask is None and tokenizer.decode(row.responses[1].ids) == "five</s>"


def test_masked_out_whole_is_dropped_and_counted(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    made = body(tokenizer, "pairs")
    made[0]["chosen_mask"] = [False] * len(made[0]["chosen_token_ids"])
    examples = data.read(job(tmp_path / "one", model, "pairs", made, "dpo"))
    assert examples.facts["dropped"] == 1 and examples.facts["units"] == len(made) - 1
    with pytest.raises(Refusal, match=r"of 1 rows all were dropped.*\(0 responses were cut, 1 are masked out whole\); raise max_length"):
        data.read(job(tmp_path / "none", model, "pairs", made[:1], "dpo"))


def test_masked_with_the_wrong_length_is_refused(tokenizer: Any) -> None:
    made = body(tokenizer, "pairs")[0]
    made["rejected_mask"] = [True, False]
    count = len(made["rejected_token_ids"])
    with pytest.raises(Refusal) as refused:
        list(token_rows(rows.from_pylist("pairs", [made]), "pairs", tokenizer))
    assert str(refused.value) == (
        f"rows: row 'row-000', rejected: its mask has 2 flags and its response {count} tokens; give one flag for each token"
    )


def test_masked_text_of_another_tokenizer_is_refused_without_messages(tokenizer: Any) -> None:
    made = {**body(tokenizer, "pairs")[0], "tokenizer": "another"}
    with pytest.raises(Refusal, match=r"row 'row-000', chosen: its mask is over tokens that this model's tokenizer did not make"):
        list(token_rows(rows.from_pylist("pairs", [made]), "pairs", tokenizer))


def test_masked_turns_that_a_template_rewrites_are_refused(model: Path) -> None:
    tokenizer = chat.load_tokenizer(model)
    tokenizer.chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|>"
        "{% if loop.last or message['role'] != 'assistant' %}{{ message['content'] }}{% endif %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(Refusal, match=r"rows: row 'tools', response 0: the chat template writes what stands before message 3 differently"):
        list(token_rows(rows.from_pylist("candidates", [two_turns(tokenizer)]), "candidates", tokenizer))


def test_tool_calls_reach_the_template_as_data(model: Path) -> None:
    tokenizer = chat.load_tokenizer(model)
    turns = [{"role": "assistant", "content": "", "tool_calls": '[{"name": "add"}]'}, *TURNS[1:]]
    row = {"id": "calls", "prompt": ASK, "responses": [{"text": "four", "messages": turns}]}
    with pytest.raises(Refusal, match=r"its chat template writes no tool calls, and these messages have some"):
        list(token_rows(rows.from_pylist("candidates", [row]), "candidates", tokenizer))
    tokenizer = chat.load_tokenizer(model)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['content'] }}",
        "{{ message['content'] }}{% if 'tool_calls' in message %}{% for c in message['tool_calls'] %}"
        "({{ (c.function or c).name }}){% endfor %}{% endif %}",
    )
    (made,) = token_rows(rows.from_pylist("candidates", [row]), "candidates", tokenizer)
    assert tokenizer.decode(made.responses[0].ids[made.responses[0].kept]) == "(add)</s>four</s>"
    bad = {**row, "responses": [{"text": "", "messages": [{**turns[0], "tool_calls": "add("}]}]}
    with pytest.raises(Refusal, match=r"messages: the tool_calls 'add\(' are not JSON"):
        list(token_rows(rows.from_pylist("candidates", [bad]), "candidates", tokenizer))


def test_masked_responses_and_messages_pass_through_the_stages(tmp_path: Path) -> None:
    from tests.support.steps import build, candidates, table

    made = candidates({f"p{i}": ["a long answer", "no"] for i in range(3)})
    for row in made:
        row["responses"][0] |= {"mask": [i > 4 for i in range(13)], "messages": TURNS}
    source = table(tmp_path / "candidates", "candidates", made)
    judged = build(tmp_path / "judged", "judge", {"judge": "length"}, {"candidates": [source, source]})
    built = build(tmp_path / "pairs", "pair", {"rule": "best_vs_worst"}, {"judged": [judged]})
    (pair, *_) = rows.read(built.path).to_pylist()
    assert [message["content"] for message in pair["chosen"]] == [message["content"] for message in TURNS]
    assert pair["chosen_mask"] == [i > 4 for i in range(13)] and pair["rejected_mask"] is None
    assert pair["rejected"] == [{"role": "assistant", "content": "no", "tool_calls": None}]
    assert built.manifest.facts["mean_chosen_tokens"] == 8 and built.manifest.facts["mean_rejected_tokens"] == 2
    mixed = build(tmp_path / "mix", "mix", {}, {"rows": [built]})
    assert rows.read(mixed.path)["chosen_mask"].to_pylist() == rows.read(built.path)["chosen_mask"].to_pylist()
    other = build(tmp_path / "mismatch", "mismatch", {}, {"rows": built})
    drawn = [row["responses"][0] for row in rows.read(other.path).to_pylist()]
    assert all((each["mask"] is None) == (each["messages"] is None) == (each["text"] == "no") for each in drawn)
