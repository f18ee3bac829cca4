"""The Nash family, objectives with extra responses, and those of tokens: what must hold whatever the numbers are."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import objectives
from objectives import (
    Batch,
    ExtraResponses,
    dpo,
    egpo,
    evolve,
    gpo,
    inpo,
    ipo,
    mapo,
    mnpo,
    nash_md,
    rationale,
    rrpo,
    selm,
    sft,
    sparsepo,
    spo_degree,
    sppo,
    srpo,
    vpo,
    wpo,
    xpo,
)
from pipeline import plugin
from pipeline.errors import Refusal
from tests.objectives.test_objectives import gradient, pairs

COUNT, TOKENS = 6, 5
PAIRWISE: list[tuple[Any, Any]] = [
    (inpo, inpo.Config()),
    (mnpo, mnpo.Config()),
    (mnpo, mnpo.Config(length_average=True)),
    (egpo, egpo.Config()),
    (gpo, gpo.Config()),
    (selm, selm.Config()),
    (vpo, vpo.Config()),
    (vpo, vpo.Config(form="offline")),
    (xpo, xpo.Config()),
    (xpo, xpo.Config(base="ipo")),
    (rationale, rationale.Config()),
    (rationale, rationale.Config(base="orpo", form="nll")),
    (srpo, srpo.Config()),
    (evolve, evolve.Config()),
    (spo_degree, spo_degree.Config()),
    (wpo, wpo.Config()),
    (sparsepo, sparsepo.Config()),
    (mapo, mapo.Config()),
    (rrpo, rrpo.Config()),
]
BESIDE = [case for case in PAIRWISE if case[0] in (selm, vpo, xpo, rationale, srpo, evolve)]


def full(seed: int = 0, weights: list[float] | None = None, dtype: torch.dtype = torch.float64) -> Batch:
    """Pairs with all that the pairwise objectives may need, numbers at random."""
    batch = pairs(COUNT, TOKENS, seed, weights)
    draw = torch.Generator().manual_seed(seed + 1)
    mask_NT = batch.mask_NT

    def some(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    def beside() -> ExtraResponses:
        mask_UT = torch.arange(TOKENS) < torch.randint(1, TOKENS + 1, (COUNT, 1), generator=draw)
        return ExtraResponses((-some(COUNT, TOKENS) * mask_UT).requires_grad_(), mask_UT, -some(COUNT, TOKENS) * mask_UT)

    return replace(
        batch,
        history_HNT=-some(3, 2 * COUNT, TOKENS) * mask_NT,
        score_N=torch.cat([some(COUNT), -some(COUNT)]),
        extra=tuple(beside() for _ in range(4)),
        token_kl_NT=some(2 * COUNT, TOKENS) * mask_NT,
        log_sum_sq_NT=-some(2 * COUNT, TOKENS) * mask_NT,
        reward_mask_NT=(some(2 * COUNT, TOKENS) * mask_NT).requires_grad_(),
        kl_mask_NT=(some(2 * COUNT, TOKENS) * mask_NT).requires_grad_(),
        phrase_NT=torch.randint(0, 3, (2 * COUNT, TOKENS), generator=draw),
        degree_logits_EUK=some(2, COUNT, 4).requires_grad_(),
        degree_EU=torch.randint(0, 4, (2, COUNT), generator=draw),
    )


@pytest.mark.parametrize(("module", "config"), PAIRWISE)
def test_a_step_raises_the_chosen_and_lowers_the_rejected(module: Any, config: Any) -> None:
    batch = full()
    found = gradient(module, config, batch)
    inside = batch.mask_NT & (batch.phrase_NT > 0) if module is rrpo else batch.mask_NT
    assert (found[:COUNT][inside[:COUNT]] < 0).all()
    assert (found[COUNT:][inside[COUNT:]] > 0).all()
    assert (found[~inside] == 0).all()


@pytest.mark.parametrize(("module", "config"), PAIRWISE)
def test_weights_scale_the_loss_and_not_the_terms(module: Any, config: Any) -> None:
    a, b = (module.loss(config, full(weights=[weight] * COUNT)) for weight in (1.0, 3.0))
    assert torch.allclose(b.per_unit, 3 * a.per_unit)
    assert a.terms and all(torch.equal(a.terms[name], b.terms[name]) for name in a.terms)
    assert not any(value.requires_grad for value in a.terms.values())


@pytest.mark.parametrize(("module", "config"), [*PAIRWISE, (nash_md, nash_md.Config()), (sft, sft.Config(divergence="pearson"))])
def test_masked_positions_never_matter(module: Any, config: Any) -> None:
    batch = full()

    def dirty(value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, value, float("nan"))

    extra = tuple(replace(each, ref_logps_UT=dirty(each.ref_logps_UT, each.mask_UT)) for each in batch.extra)
    names = ("ref_logps_NT", "history_HNT", "token_kl_NT", "log_sum_sq_NT")
    soiled = replace(batch, extra=extra, **{name: dirty(getattr(batch, name), batch.mask_NT) for name in names})
    leaves = [batch.logps_NT, batch.reward_mask_NT, batch.kl_mask_NT, *(each.logps_UT for each in batch.extra)]
    clean, found = (module.loss(config, each).per_unit for each in (batch, soiled))
    assert torch.equal(clean, found)
    for one, other in zip(*(torch.autograd.grad(each.sum(), leaves, allow_unused=True) for each in (clean, found)), strict=True):
        assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize(("module", "config"), BESIDE)
def test_extra_responses_are_pushed_the_right_way(module: Any, config: Any) -> None:
    """Optimism lowers them, a rationale is raised, and revising raises w given l and lowers l given w."""
    batch = full()
    leaves = [each.logps_UT for each in batch.extra[: module.EXTRAS]]
    found = torch.autograd.grad(module.loss(config, batch).per_unit.sum(), leaves, allow_unused=True)
    if getattr(config, "form", "") == "offline":
        assert found == (None,) and "extra" not in module.needs(config)
        return
    signs = {selm: [1], vpo: [1], xpo: [1], rationale: [-1], srpo: [-1, 1, -1, 1], evolve: [-1, 1, -1, 1]}[module]
    for sign, leaf, each in zip(signs, found, batch.extra, strict=False):
        assert (leaf[each.mask_UT] * sign > 0).all() and (leaf[~each.mask_UT] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("module", "config"), PAIRWISE)
def test_saturated_pairs_stay_finite(module: Any, config: Any, dtype: torch.dtype) -> None:
    for gap in (-160.0, 160.0):
        moved = {
            name: value.detach().to(dtype) if value.is_floating_point() else value
            for name, value in vars(full()).items()
            if isinstance(value, torch.Tensor)
        }
        sides = torch.tensor([[0.0]] * COUNT + [[1.0]] * COUNT, dtype=dtype)
        moved["ref_logps_NT"] = (moved["ref_logps_NT"] + gap * sides) * moved["mask_NT"]
        extra = tuple(ExtraResponses(each.logps_UT.detach().to(dtype), each.mask_UT, each.ref_logps_UT.to(dtype)) for each in full().extra)
        batch = replace(full(), extra=extra, **moved)
        batch.logps_NT.requires_grad_()
        per_unit = module.loss(config, batch).per_unit
        (found,) = torch.autograd.grad(per_unit.sum(), batch.logps_NT)
        assert torch.isfinite(per_unit).all() and torch.isfinite(found).all()


def same(one: tuple[Any, Any], other: tuple[Any, Any], batch: Batch, factor: float = 1.0) -> None:
    a, b = (module.loss(config, batch).per_unit for module, config in (one, other))
    assert torch.allclose(a, factor * b, rtol=1e-12)
    assert torch.allclose(gradient(*one, batch), factor * gradient(*other, batch), rtol=1e-12)


def test_identities_of_the_nash_family() -> None:
    batch = full()
    sums = ipo.Config(beta=0.02, length_average=False)
    same((inpo, inpo.Config(eta=0.02, tau=0.02)), (ipo, sums), batch)
    same((inpo, inpo.Config(eta=0.02)), (mnpo, mnpo.Config(eta=0.02, ratio=1 / 3, max_history=1)), batch)
    one_sided = mnpo.Config(eta=0.02, ratio=0.4, max_history=2, history_weights=(1.0, 0.0))
    same((mnpo, one_sided), (mnpo, mnpo.Config(eta=0.02, ratio=0.4, max_history=1)), batch)
    same((mnpo, mnpo.Config(eta=0.02, ratio=1.0)), (ipo, sums), batch)
    same((mnpo, mnpo.Config(eta=0.02, ratio=1.0, history_weights=())), (ipo, sums), batch)
    # A certain judge makes EGPO's margin 1/beta: IPO with half the beta.
    same((egpo, egpo.Config(beta=0.2)), (ipo, ipo.Config(beta=0.1)), batch)
    # Scores of +-1/2 are win rates of 1 and 0.
    halves = replace(batch, score_N=batch.win_rate_N - 0.5)
    same((gpo, gpo.Config(beta=0.01)), (sppo, sppo.Config(beta=0.01)), halves)
    same((gpo, gpo.Config(beta=0.01, clamp=5.0)), (gpo, gpo.Config(beta=0.1)), halves)


def test_swapping_a_pair_changes_the_sign_of_the_gap() -> None:
    batch = full()
    swapped = replace(batch, pair_w_P=batch.pair_l_P, pair_l_P=batch.pair_w_P)
    for module in (inpo, mnpo):
        one, other = (module.loss(module.Config(), each).terms["gap"] for each in (batch, swapped))
        assert torch.equal(one, -other)
    # EGPO's target changes with it, so that its pairs need no order.
    same_loss = [egpo.loss(egpo.Config(), each).per_unit for each in (batch, swapped)]
    assert torch.equal(*same_loss)


def test_mnpo_says_that_it_has_no_opponent() -> None:
    for history in (None, torch.zeros(0, 2 * COUNT, TOKENS, dtype=torch.float64)):
        alone = replace(full(), history_HNT=history)
        with pytest.raises(Refusal, match="no opponent"):
            mnpo.loss(mnpo.Config(), alone)
        assert torch.isfinite(mnpo.loss(mnpo.Config(history_weights=()), alone).per_unit).all()
    # With fewer policies than it may have, those that there are share the weight.
    one = replace(full(), history_HNT=full().history_HNT[:1])
    few, exact = mnpo.Config(max_history=2, history_weights=(0.25, 0.75)), mnpo.Config(max_history=1)
    assert torch.allclose(mnpo.loss(few, one).per_unit, mnpo.loss(exact, one).per_unit)
    with pytest.raises(ValueError, match="history_weights"):
        mnpo.Config(max_history=3, history_weights=(1.0,))
    with pytest.raises(ValueError, match="tau"):
        inpo.Config(eta=0.1, tau=0.2)


def test_identities_of_optimism_and_tokens() -> None:
    batch = full()
    plain = (dpo, dpo.Config(beta=0.1))
    same((selm, selm.Config(beta=0.1, alpha=0.2)), (vpo, vpo.Config(beta=0.1, alpha=0.2)), batch)
    for module in (selm, vpo, xpo):
        same((module, module.Config(beta=0.1, alpha=0)), plain, batch)
    same((evolve, evolve.Config(alpha=0)), plain, batch)
    same((spo_degree, spo_degree.Config(weight=0)), plain, batch)
    (more,) = torch.autograd.grad(xpo.loss(xpo.Config(alpha=0.02), batch).per_unit.sum(), batch.extra[0].logps_UT)
    (less,) = torch.autograd.grad(vpo.loss(vpo.Config(alpha=0.2), batch).per_unit.sum(), batch.extra[0].logps_UT)
    assert torch.allclose(more, less)
    # Offline VPO is DPO with the chosen responses' likelihood, weighted alpha beta, up to a constant.
    offline = gradient(vpo, vpo.Config(beta=0.1, alpha=0.5, form="offline"), batch) - gradient(*plain, batch)
    chosen = torch.cat([batch.mask_NT[:COUNT].double() * -0.05, torch.zeros(COUNT, TOKENS, dtype=torch.float64)])
    assert torch.allclose(offline, chosen)
    likely = replace(batch, log_sum_sq_NT=batch.logps_NT.detach())  # every token as likely as tokens are
    same((wpo, wpo.Config(beta=0.1, clamp=None)), plain, likely)
    ones = torch.ones_like(batch.logps_NT)
    still = replace(batch, reward_mask_NT=ones, kl_mask_NT=ones, token_kl_NT=0 * ones, phrase_NT=ones.long())
    same((mapo, mapo.Config()), plain, still)
    same((sparsepo, sparsepo.Config(l1_u=0, l1_d=0)), plain, still)
    same((rrpo, rrpo.Config()), plain, still)
    unmarked = rrpo.loss(rrpo.Config(alpha=0), replace(batch, phrase_NT=torch.zeros_like(batch.phrase_NT)))
    assert torch.allclose(unmarked.per_unit, torch.full((COUNT,), math.log(2), dtype=torch.float64))


def test_sparse_masks_pay_for_what_they_let_through() -> None:
    batch = full()
    free, dear = sparsepo.Config(l1_u=0, l1_d=0), sparsepo.Config(l1_u=0.5, l1_d=0.25)
    added = sparsepo.loss(dear, batch).per_unit - sparsepo.loss(free, batch).per_unit
    both_N = (0.5 * batch.reward_mask_NT + 0.25 * batch.kl_mask_NT).sum(-1)
    assert torch.allclose(added, both_N[:COUNT] + both_N[COUNT:])
    same((sparsepo, free), (mapo, mapo.Config()), batch)
    masks = torch.autograd.grad(sparsepo.loss(free, batch).per_unit.sum(), [batch.reward_mask_NT, batch.kl_mask_NT])
    assert all((each[batch.mask_NT] != 0).any() and (each[~batch.mask_NT] == 0).all() for each in masks)


def test_wpo_weighs_without_a_gradient_and_at_most_as_clamped() -> None:
    batch = full()
    terms = wpo.loss(wpo.Config(clamp=0.3), batch).terms
    loose = wpo.loss(wpo.Config(clamp=None), batch)
    assert torch.equal(terms["on_policy_weight"], loose.terms["on_policy_weight"].clamp(max=0.3))
    expected = dpo.loss(dpo.Config(beta=0.01), batch).per_unit * loose.terms["on_policy_weight"]
    assert torch.allclose(loose.per_unit, expected)
    (found,), (wanted,) = (torch.autograd.grad(each.sum(), batch.logps_NT) for each in (loose.per_unit, expected))
    assert torch.allclose(found, wanted)


def test_nash_md_is_reinforce_with_the_tokens_own_kl() -> None:
    batch = full()
    found = gradient(nash_md, nash_md.Config(beta=0.3), batch)
    ratios = (batch.logps_NT - batch.ref_logps_NT).detach()
    assert torch.allclose(found, torch.where(batch.mask_NT, 0.3 * ratios - (batch.win_rate_N - 0.5)[:, None], 0.0))


def test_sft_keeps_the_reference_in_sight_if_asked_to() -> None:
    batch = full()
    at_reference = replace(batch, ref_logps_NT=batch.logps_NT.detach())
    for name, start in (("pearson", 0.0), ("hellinger", 1.0), ("forward_kl_cap", math.log(2))):
        config = sft.Config(divergence=name)
        loss = sft.loss(config, at_reference)
        assert loss.per_unit.shape == (2 * COUNT,) and torch.allclose(loss.per_unit, torch.full_like(loss.per_unit, start))
        assert (gradient(sft, config, at_reference)[batch.mask_NT] < 0).all()
        far = replace(batch, ref_logps_NT=(batch.logps_NT.detach() - 50.0) * batch.mask_NT)
        assert (gradient(sft, config, far)[batch.mask_NT] > -1e-6).all()


def test_revisions_start_at_a_quarter_each() -> None:
    batch = full()
    batch = replace(
        batch,
        ref_logps_NT=batch.logps_NT.detach(),
        extra=tuple(replace(each, ref_logps_UT=each.logps_UT.detach()) for each in batch.extra),
    )
    assert torch.allclose(srpo.loss(srpo.Config(alpha=0.5), batch).per_unit, torch.full((COUNT,), 0.375, dtype=torch.float64))
    expected = torch.full((COUNT,), 0.2 * math.log(2) + 0.8 * 0.5, dtype=torch.float64)
    assert torch.allclose(evolve.loss(evolve.Config(alpha=0.8), batch).per_unit, expected)


def test_degrees_are_learned_beside_the_pairs() -> None:
    batch = full()
    found = spo_degree.loss(spo_degree.Config(weight=0.5), batch)
    (head,) = torch.autograd.grad(found.per_unit.sum(), batch.degree_logits_EUK)
    right = torch.nn.functional.one_hot(batch.degree_EU, 4).bool()
    assert (head[right] < 0).all() and (head[~right] > 0).all()
    flat = replace(batch, degree_logits_EUK=torch.zeros(2, COUNT, 4, dtype=torch.float64))
    even = torch.full((COUNT,), 0.1 * 2 * math.log(4), dtype=torch.float64)
    assert torch.allclose(spo_degree.loss(spo_degree.Config(), flat).terms["degree"], even)


def test_settings_lift_needs() -> None:
    def needs(**settings: Any) -> frozenset[str]:
        return objectives.needs(plugin.parse("objectives", settings))

    assert needs(kind="mnpo") - needs(kind="mnpo", history_weights=[]) == {"history"}
    assert needs(kind="vpo") - needs(kind="vpo", form="offline") == {"extra", "extra_reference"}
    assert needs(kind="rationale") - needs(kind="rationale", base="orpo") == {"reference"}
    assert needs(kind="sft", divergence="hellinger") == {"reference"}
    assert "extra_reference" not in needs(kind="xpo") and "extra_reference" in needs(kind="selm")
    for module, _ in PAIRWISE:
        assert objectives.WANTS.keys() >= module.NEEDS
        assert hasattr(module, "EXTRAS") is ("extra" in module.NEEDS)
