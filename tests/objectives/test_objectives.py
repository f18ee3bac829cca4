"""Objectives against the golden vectors, and against what must hold of them whatever the numbers are."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import objectives
from objectives import Batch, dpo, ipo, sft, sppo
from pipeline import plugin
from tests.golden import adapter

VECTORS = adapter.load()


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['file'].removesuffix('.json')}-{v['id']}" for v in VECTORS])
def test_golden(vector: adapter.Vector) -> None:
    reason = adapter.reason_to_skip(vector)
    if reason:
        pytest.skip(reason)
    for dtype in adapter.TOLERANCE:
        adapter.check(vector, dtype)


def test_golden_checks_every_vector_and_notices_a_wrong_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("REMATCH_GOLDEN_DIR", raising=False)
    vectors = adapter.load()
    assert len(vectors) == 388 and adapter.report() == 0
    assert "388 checked, 0 skipped, 0 failed" in capsys.readouterr().out
    assert {"extreme"} <= {vector.get("fixture") for vector in vectors}
    for vector in vectors:
        if "expected_grad" in vector:
            wrong = {**vector, "expected_grad": _nudged(vector["expected_grad"])}
            with pytest.raises(AssertionError, match="gradient"):
                adapter.check(wrong, "float64")


def test_a_vector_that_nobody_explains_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"method": "ppo_max", "variant": "another"}
    (tmp_path / "more.json").write_text(json.dumps([known, {"method": "unheard_of", "variant": "v"}]))
    monkeypatch.setenv("REMATCH_GOLDEN_DIR", str(tmp_path))
    assert adapter.report() == 1
    told = capsys.readouterr().out
    assert "0 checked, 1 skipped, 1 failed" in told and "nothing checks unheard_of / v" in told


LOSS_TYPES = {"hinge": "hinge", "nca": "nca_pair", "rdpo": "robust", "apo_down": "apo_down", "discopop": "discopop", "aot": "aot"}


@pytest.mark.parametrize(("method", "loss_type"), LOSS_TYPES.items())
def test_a_method_under_another_name_is_told_by_it(method: str, loss_type: str) -> None:
    """The vectors of a method, named as TRL 0.11 names its losses, are checked by the same numbers."""
    found = [vector for vector in VECTORS if vector["method"] == method and vector["variant"] != "aot_paired"]
    assert found
    for vector in found:
        renamed = {**vector, "method": f"trl_{loss_type}", "variant": "another"}
        adapter.check(renamed, "float64")
        if "expected_grad" in vector:
            with pytest.raises(AssertionError):
                adapter.check({**renamed, "expected_grad": _nudged(vector["expected_grad"])}, "float64")


def _nudged(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nudged(each) for name, each in value.items()}
    return [_nudged(each) for each in value] if isinstance(value, list) else value * 1.001 + 1e-5


def pairs(count: int = 6, tokens: int = 5, seed: int = 0, weights: list[float] | None = None) -> Batch:
    """Random log-probabilities of `count` pairs, ragged, with a gradient on the policy's."""
    draw = torch.Generator().manual_seed(seed)
    lengths_N = torch.randint(1, tokens + 1, (2 * count,), generator=draw)
    mask_NT = torch.arange(tokens) < lengths_N[:, None]

    def logps() -> torch.Tensor:
        return -torch.rand(2 * count, tokens, generator=draw, dtype=torch.float64) * mask_NT

    return Batch(
        logps_NT=logps().requires_grad_(),
        mask_NT=mask_NT,
        ref_logps_NT=logps(),
        pair_w_P=torch.arange(count),
        pair_l_P=torch.arange(count) + count,
        pair_label_P=torch.ones(count, dtype=torch.float64),
        pair_weight_P=torch.tensor(weights or [1.0] * count, dtype=torch.float64),
        win_rate_N=torch.tensor([1.0] * count + [0.0] * count, dtype=torch.float64),
    )


def gradient(module: Any, config: Any, batch: Batch) -> torch.Tensor:
    (found,) = torch.autograd.grad(module.loss(config, batch).per_unit.sum(), batch.logps_NT)
    return found


@pytest.mark.parametrize(
    ("module", "config"),
    [
        (dpo, dpo.Config()),
        (dpo, dpo.Config(label_smoothing=0.1)),
        (ipo, ipo.Config()),
        (ipo, ipo.Config(length_average=False)),
        (sppo, sppo.Config()),
    ],
)
def test_a_step_raises_the_chosen_and_lowers_the_rejected(module: Any, config: Any) -> None:
    batch = pairs()
    found = gradient(module, config, batch)
    assert (found[:6][batch.mask_NT[:6]] < 0).all()
    assert (found[6:][batch.mask_NT[6:]] > 0).all()
    assert (found[~batch.mask_NT] == 0).all()


def test_sft_raises_every_token_and_is_a_mean_over_tokens() -> None:
    batch = pairs()
    loss = sft.loss(sft.Config(), batch)
    assert loss.per_unit.shape == batch.mask_NT.shape
    assert torch.equal(gradient(sft, sft.Config(), batch), -batch.mask_NT.double())


def test_identities() -> None:
    batch = pairs()
    plain = dpo.loss(dpo.Config(beta=0.3), batch).per_unit
    assert torch.equal(dpo.loss(dpo.Config(beta=0.3, label_smoothing=0.0), batch).per_unit, plain)
    # `hard` has no factor 1/2, and stands for win rates of 1 and 0.
    hard, soft = (sppo.loss(sppo.Config(form=form), batch).per_unit for form in ("hard", "soft"))
    assert torch.allclose(hard, 2 * soft, rtol=1e-12)
    single = sppo.loss(sppo.Config(form="single"), batch).per_unit
    assert torch.allclose(single, soft, rtol=1e-12)


def test_before_the_first_step_losses_have_their_closed_form() -> None:
    batch = pairs()
    batch = Batch(**{**vars(batch), "ref_logps_NT": batch.logps_NT.detach().clone()})
    assert torch.allclose(dpo.loss(dpo.Config(), batch).per_unit, torch.full((6,), math.log(2), dtype=torch.float64))
    assert torch.allclose(ipo.loss(ipo.Config(beta=0.1), batch).per_unit, torch.full((6,), 25.0, dtype=torch.float64))
    assert torch.allclose(sppo.loss(sppo.Config(), batch).per_unit, torch.full((6,), 250000.0, dtype=torch.float64))


def test_weights_scale_the_loss_and_not_the_terms() -> None:
    one, three = pairs(weights=[1.0] * 6), pairs(weights=[3.0] * 6)
    for module in (dpo, ipo, sppo):
        a, b = module.loss(module.Config(), one), module.loss(module.Config(), three)
        assert torch.allclose(b.per_unit, 3 * a.per_unit)
        assert all(torch.equal(a.terms[name], b.terms[name]) for name in a.terms)


def test_masked_positions_never_matter() -> None:
    batch = pairs()
    dirty = Batch(**{**vars(batch), "ref_logps_NT": torch.where(batch.mask_NT, batch.ref_logps_NT, float("nan"))})  # type: ignore[call-overload]
    for module in (dpo, ipo, sppo):
        assert torch.equal(module.loss(module.Config(), batch).per_unit, module.loss(module.Config(), dirty).per_unit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_pairs_stay_finite(dtype: torch.dtype) -> None:
    for gap in (-1e4, 1e4):
        logps_NT = torch.tensor([[0.0], [gap]], dtype=dtype, requires_grad=True)
        mask_NT, ref_NT = torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 1, dtype=dtype)
        batch = Batch(logps_NT, mask_NT, ref_NT, pair_w_P=torch.tensor([0]), pair_l_P=torch.tensor([1]))
        for module in (dpo, ipo):
            per_unit = module.loss(module.Config(), batch).per_unit
            (found,) = torch.autograd.grad(per_unit.sum(), logps_NT)
            assert torch.isfinite(per_unit).all() and torch.isfinite(found).all()


def test_settings_lift_needs() -> None:
    def needs(**settings: Any) -> frozenset[str]:
        return objectives.needs(plugin.parse("objectives", settings))

    assert needs(kind="sppo") == {"pairs", "reference", "win_rates"}
    assert needs(kind="sppo", form="hard") == {"pairs", "reference"}
    assert needs(kind="dpo", reference_free=True) == {"pairs"}
    assert needs(kind="sft") == frozenset()


def test_terms_say_how_often_the_chosen_wins() -> None:
    batch = pairs()
    terms = dpo.loss(dpo.Config(), batch).terms
    assert torch.equal(terms["accuracy"], (terms["margin"] > 0).double())
    assert torch.allclose(terms["margin"], terms["chosen_logratio"] - terms["rejected_logratio"])
    assert not any(value.requires_grad for value in terms.values())
