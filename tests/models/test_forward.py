"""The one forward pass: padding, chunks, other model families, no dropout."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import Model, canary, score
from models import forward as forwards
from pipeline.errors import Refusal
from tests.support.models import tiny_llama
from training import batches


def plain_logps(model: Any, prompt: np.ndarray, response: np.ndarray) -> torch.Tensor:
    ids = torch.from_numpy(np.concatenate([prompt, response])).long()[None]
    with torch.no_grad():
        logps = torch.log_softmax(model(input_ids=ids).logits[0].float(), -1)
    return logps[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [2**26, 200])
def test_padded_batches_give_what_each_sequence_gives_alone(
    tmp_path: Path, tied: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwards, "CHUNK_LOGITS", chunk)
    loaded = forwards.load(Model(tiny_llama(tmp_path / "m", tied=tied)), "float32", "cpu")
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, 100, size) for size in (1, 7, 3, 20)]
    responses = [draw.integers(0, 100, size) for size in (9, 1, 4, 2)]
    both = list(zip(prompts, responses, strict=True))
    sizes = (np.asarray([len(p) for p in prompts]), np.asarray([len(r) for r in responses]))
    whole = [np.ones(len(response), bool) for response in responses]
    found = score.logps_of(loaded, [np.concatenate(each) for each in both], *sizes, tokens=10_000, kept=whole)
    for logps, (prompt, response) in zip(found, both, strict=True):
        assert np.abs(logps - plain_logps(loaded, prompt, response).numpy()).max() < 2e-5
    # In the backward pass too: chunks are computed again there.
    laid = batches.layout(np.concatenate([np.concatenate(each) for each in both]), np.asarray([0, 10, 18, 25]), *sizes, "cpu")
    logps_NT = forwards.response_logps(loaded, laid)
    assert logps_NT.requires_grad and (logps_NT[~laid.mask_NT] == 0).all()
    logps_NT.sum().backward()
    ours = loaded.model.layers[0].mlp.up_proj.weight.grad.clone()
    loaded.zero_grad()
    for prompt, response in both:
        ids = torch.from_numpy(np.concatenate([prompt, response])).long()[None]
        logps = torch.log_softmax(loaded(input_ids=ids).logits[0], -1)
        logps[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None]).sum().backward()
    assert torch.allclose(ours, loaded.model.layers[0].mlp.up_proj.weight.grad, rtol=1e-4, atol=1e-4)


FAMILIES = {
    "gemma2": {"final_logit_softcapping": 5.0, "head_dim": 16, "num_key_value_heads": 2, "sliding_window": 8},
    "cohere": {"logit_scale": 0.3, "num_key_value_heads": 2},
    "granite": {"logits_scaling": 3.0, "num_key_value_heads": 2},
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "qwen3": {"head_dim": 16, "num_key_value_heads": 2, "attention_dropout": 0.5},
    "gpt_neox": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_agree_with_their_own_logits_and_have_no_dropout(family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape, **ids, initializer_range=0.2, **FAMILIES[family]))
    forwards.dropout_off(made)
    forwards.check(made)
    sequences = canary.sequences(50, count=3, length=12)
    once = forwards.sequence_logps(made, sequences)
    forwards.checkpoint_activations(made)
    laid = batches.layout(np.concatenate(sequences), np.asarray([0, 12, 24]), np.ones(3, int), np.full(3, 11), "cpu")
    in_training = forwards.response_logps(made, laid)
    in_training.sum().backward()
    assert np.abs(np.asarray(once) - in_training.detach().numpy()).max() < 1e-5


def test_a_model_with_an_unknown_last_step_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = forwards.load(Model(tiny_llama(tmp_path / "m")), "float32", "cpu")
    forward = type(loaded).forward

    def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = forward(self, *args, **kwargs)
        return replace(found, logits=2 * found.logits)

    monkeypatch.setattr(type(loaded), "forward", doubled)
    with pytest.raises(Refusal, match="does something to its logits"):
        forwards.check(loaded)


def test_distributions_of_tokens_are_those_of_the_logits(tmp_path: Path) -> None:
    policy, reference = (forwards.load(Model(tiny_llama(tmp_path / str(seed), seed=seed)), "float64", "cpu") for seed in (0, 1))
    laid = batches.layout(np.arange(3, 24), np.asarray([0, 9]), np.asarray([4, 2]), np.asarray([5, 10]), "cpu")
    wanted = frozenset({"token_kl", "log_sum_sq"})
    theirs_RH = forwards.hidden(reference, laid)[laid.at_R]
    found = forwards.seen(policy, laid, forwards.hidden(policy, laid), wanted, theirs_RH, reference)
    logps, theirs = (torch.log_softmax(model(laid.ids_NS).logits.flatten(0, 1)[laid.at_R], -1) for model in (policy, reference))
    inside = laid.mask_NT
    assert torch.allclose(found["logps"][inside], logps.gather(1, laid.target_R[:, None])[:, 0])
    assert torch.allclose(found["log_sum_sq"][inside], (logps.exp() ** 2).sum(-1).log())
    assert torch.allclose(found["token_kl"][inside], torch.nn.functional.kl_div(logps, theirs, log_target=True, reduction="none").sum(-1))
    assert (found["token_kl"][inside] > 0).all() and all((value[~inside] == 0).all() for value in found.values())
