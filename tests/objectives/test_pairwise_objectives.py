"""The objectives of pairs that see each response by itself: what must hold of them whatever the numbers are."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import objectives
from objectives import Batch, Loss
from pipeline import plugin
from tests.objectives.test_objectives import pairs

LIKELIHOOD = ("slic", "orpo", "contrastive_cpo", "rpo", "mpo", "upo")
"""Those with the likelihood of the chosen response beside the loss of the pair."""
MARGIN = ("dpo", "rdpo", "hinge", "exo", "discopop")
"""Those that share the score maps."""
SCORES = (
    {"length_average": True},
    {"ld_alpha": 0.5},
    {"ld_alpha": 0.5, "length_average": True},
    {"divergence": "forward_kl"},
    {"divergence": "js"},
    {"divergence": "alpha"},
    {"divergence": "alpha", "divergence_alpha": 3.0},
    {"reference_scale": 0.5},
)
ALL: list[dict[str, Any]] = [
    *({"kind": kind} for kind in (*MARGIN, *LIKELIHOOD, "nca", "apo_zero", "apo_down", "simpo", "osp", "spin", "power")),
    *({"kind": kind, **scores} for kind in MARGIN for scores in SCORES),
    *({"kind": kind, "nll_weight": 0.5, "nll_reduction": how} for kind in LIKELIHOOD for how in ("token_mean", "seq_mean", "seq_sum")),
    *({"kind": "constrained_po", "variant": variant} for variant in ("clip", "softplus", "easy")),
    {"kind": "spin", "form": "hinge"},
    {"kind": "dpo", "soft_labels": True, "label_smoothing": 0.1},
    {"kind": "dpo", "reference_free": True},
]


def name(settings: dict[str, Any]) -> str:
    return "-".join(str(value) for value in settings.values())


def loss(batch: Batch, kind: str, **settings: Any) -> Loss:
    choice = plugin.parse("objectives", {"kind": kind, **settings})
    return choice.module.loss(choice.config, batch)


def per_unit(batch: Batch, kind: str, **settings: Any) -> torch.Tensor:
    return loss(batch, kind, **settings).per_unit


def total(found: Loss) -> torch.Tensor:
    return found.per_unit.sum() + (0.0 if found.per_chosen_token_PT is None else found.per_chosen_token_PT.sum())


def gradient(batch: Batch, settings: dict[str, Any]) -> torch.Tensor:
    (found,) = torch.autograd.grad(total(loss(batch, **settings)), batch.logps_NT)
    return found


def labelled(values: list[float], **more: Any) -> Batch:
    batch = pairs(len(values), **more)
    return replace(batch, pair_label_P=torch.tensor(values, dtype=torch.float64))


def at_reference() -> Batch:
    batch = pairs()
    return replace(batch, ref_logps_NT=batch.logps_NT.detach().clone())


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


DPO_TWINS = [
    {"kind": "dpo", "label_smoothing": 0.0},
    {"kind": "dpo", "ld_alpha": 1.0},
    {"kind": "dpo", "reference_scale": 1.0},
    {"kind": "dpo", "soft_labels": True},
    {"kind": "dpo", "divergence": "alpha", "divergence_alpha": 1.0},
    {"kind": "rdpo", "label_smoothing": 0.0},
    {"kind": "osp"},
    {"kind": "upo"},
    {"kind": "spin"},
    {"kind": "rpo", "nll_weight": 0.0},
    {"kind": "mpo", "preference_weight": 1.0, "quality_weight": 0.0, "nll_weight": 0.0},
]


@pytest.mark.parametrize("twin", DPO_TWINS, ids=name)
def test_what_is_dpo_at_some_setting_is_dpo(twin: dict[str, Any]) -> None:
    batch = pairs()
    same(per_unit(batch, **{**twin, "beta": 0.3}), per_unit(batch, "dpo", beta=0.3))


def test_what_has_no_reference_is_dpo_without_one() -> None:
    batch = replace(pairs(), ref_logps_NT=None)
    free = per_unit(batch, "dpo", reference_free=True)
    same(per_unit(batch, "dpo", reference_scale=0.0), free)
    same(per_unit(batch, "contrastive_cpo", nll_weight=0.0), free)


def test_a_soft_label_is_a_smoothing_of_each_pair() -> None:
    chances = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    soft = labelled(chances)
    apart = torch.stack([per_unit(soft, "dpo", label_smoothing=1 - p)[i] for i, p in enumerate(chances) if p > 0.5])
    for kind in ("osp", "upo"):
        same(per_unit(soft, kind)[1:], apart)
    same(per_unit(soft, "dpo", soft_labels=True), per_unit(soft, "osp"))
    # OSP's gradient vanishes where the policy is as sure as the judge.
    margin_P = loss(soft, "dpo").terms["margin"]
    sure = replace(soft, pair_label_P=torch.sigmoid(0.1 * margin_P))
    assert gradient(sure, {"kind": "osp"}).abs().max() < 1e-15


def test_upo_as_printed_prefers_the_rejected() -> None:
    assert gradient(labelled([0.4] * 6), {"kind": "upo", "form": "paper"})[0, 0] > 0
    assert gradient(labelled([0.6] * 6), {"kind": "upo", "form": "usable"})[0, 0] < 0


def test_spin_and_hinge_are_one_formula() -> None:
    batch = pairs()
    same(per_unit(batch, "spin", form="hinge", beta=2.0), per_unit(batch, "hinge", beta=2.0))
    margin_P = loss(batch, "hinge").terms["margin"]
    same(per_unit(batch, "hinge", beta=2.0), (1 - 2 * margin_P).clamp(min=0))


def test_power_of_equal_lengths_is_simpo_without_a_margin() -> None:
    batch = pairs()
    full = replace(batch, mask_NT=torch.ones_like(batch.mask_NT))
    same(per_unit(full, "power", beta=2.0, eta=0.0), per_unit(full, "simpo", beta=2.0, gamma_beta_ratio=0.0))


def test_constrained_clip_is_dpo_on_means_where_the_reference_agrees() -> None:
    batch = pairs()
    found = per_unit(batch, "constrained_po", beta=2.0, variant="clip")
    plain = per_unit(batch, "dpo", beta=2.0, length_average=True)
    means_N = batch.ref_logps_NT.sum(-1) / batch.mask_NT.sum(-1)  # type: ignore[union-attr]
    agrees_P = means_N[:6] >= means_N[6:]
    assert 0 < agrees_P.sum() < 6
    same(found[agrees_P], plain[agrees_P])
    assert (found[~agrees_P] > plain[~agrees_P]).all()  # it asks for more where the reference is wrong


def test_a_sharp_softplus_is_a_maximum() -> None:
    """softplus with a large tau and gamma 0 is clip."""
    batch = pairs()
    sharp = per_unit(batch, "constrained_po", variant="softplus", tau=1e4, gamma=0.0)
    assert torch.allclose(sharp, per_unit(batch, "constrained_po", variant="clip"), atol=1e-4)


def test_divergences_meet_where_they_should() -> None:
    batch = pairs()
    same(per_unit(batch, "dpo", divergence="alpha", divergence_alpha=0.0), per_unit(batch, "dpo", divergence="forward_kl"))
    near = per_unit(batch, "dpo", divergence="alpha", divergence_alpha=1 + 1e-5)
    assert torch.allclose(near, per_unit(batch, "dpo"), atol=1e-4)


def test_ld_dpo_without_a_tail_sees_as_much_of_both() -> None:
    batch = pairs()
    lengths_N = batch.mask_NT.sum(-1)
    shared_N = torch.minimum(lengths_N[:6], lengths_N[6:]).repeat(2)
    assert (shared_N < lengths_N).any()
    cut = replace(batch, mask_NT=torch.arange(batch.mask_NT.shape[1]) < shared_N[:, None])
    same(per_unit(batch, "dpo", ld_alpha=0.0), per_unit(cut, "dpo"))
    # A response may stand in two pairs, with a different share in each.
    twice = replace(batch, pair_w_P=torch.tensor([0, 0]), pair_l_P=torch.tensor([6, 7]), pair_weight_P=None, pair_label_P=None)
    alone = [replace(twice, pair_w_P=torch.tensor([0]), pair_l_P=torch.tensor([l])) for l in (6, 7)]  # noqa: E741
    same(per_unit(twice, "dpo", ld_alpha=0.3), torch.cat([per_unit(each, "dpo", ld_alpha=0.3) for each in alone]))


def test_where_the_prompt_stands_does_not_matter() -> None:
    """Response tokens after masked ones, as in rows that hold a prompt too."""
    batch = pairs()
    shifted = Batch(
        **{
            **vars(batch),
            **{key: torch.nn.functional.pad(getattr(batch, key), (3, 0)) for key in ("logps_NT", "mask_NT", "ref_logps_NT")},
        }
    )
    for settings in ({"kind": "dpo", "ld_alpha": 0.5}, {"kind": "power"}, {"kind": "simpo"}):
        same(per_unit(shifted, **settings), per_unit(batch, **settings))


def test_exo_is_least_where_the_policy_has_the_smoothed_label() -> None:
    margin = math.log(0.9 / 0.1) / 0.1
    logps_NT = torch.tensor([[margin], [0.0]], dtype=torch.float64, requires_grad=True)
    batch = Batch(logps_NT, torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 1), pair_w_P=torch.tensor([0]), pair_l_P=torch.tensor([1]))
    same(per_unit(batch, "exo", beta=0.1, label_smoothing=0.1), torch.zeros(1, dtype=torch.float64))
    assert gradient(batch, {"kind": "exo", "label_smoothing": 0.1}).abs().max() < 1e-12


def test_discopop_is_its_printed_formula_where_that_is_a_number() -> None:
    batch = pairs()
    z = 0.7 * loss(batch, "dpo").terms["margin"]
    k = torch.sigmoid(z / 0.2)
    same(per_unit(batch, "discopop", beta=0.7, tau=0.2), (1 - k) * torch.log1p(torch.exp(-z)) + k * torch.exp(-z))


def test_rdpo_is_dpo_on_average_over_flips_and_may_be_negative() -> None:
    batch = pairs()
    flipped = replace(batch, pair_w_P=batch.pair_l_P, pair_l_P=batch.pair_w_P)
    kept, other = (per_unit(each, "rdpo", beta=5.0, label_smoothing=0.2) for each in (batch, flipped))
    same(0.8 * kept + 0.2 * other, per_unit(batch, "dpo", beta=5.0))
    assert (torch.cat([kept, other]) < 0).any()


def test_apo_zero_of_a_pair_is_the_sum_of_its_rows() -> None:
    batch = replace(pairs(), desirable_N=torch.tensor([True] * 6 + [False] * 6))
    rows_N = per_unit(batch, "apo_zero", unpaired=True)
    same(rows_N[:6] + rows_N[6:], per_unit(batch, "apo_zero"))
    choice = plugin.parse("objectives", {"kind": "apo_zero", "unpaired": True})
    assert objectives.unit(choice) == "row" and objectives.needs(choice) == {"desirable", "reference"}


def test_needs_follow_the_settings() -> None:
    def needs(**settings: Any) -> frozenset[str]:
        return objectives.needs(plugin.parse("objectives", settings))

    assert needs(kind="dpo", reference_scale=0.0) == needs(kind="dpo", reference_free=True) == {"pairs"}
    assert needs(kind="dpo", reference_scale=0.5) == needs(kind="spin") == needs(kind="constrained_po") == {"pairs", "reference"}
    for kind in ("slic", "simpo", "orpo", "contrastive_cpo", "power"):
        assert needs(kind=kind) == {"pairs"}


@pytest.mark.parametrize("kind", LIKELIHOOD)
def test_the_likelihood_term_is_reduced_as_said(kind: str) -> None:
    batch = pairs(weights=[1.0, 2.0, 3.0, 0.0, 0.5, 1.0])
    bare = loss(batch, kind, nll_weight=0.0)
    assert bare.per_chosen_token_PT is None and "nll" not in bare.terms
    nll_P, lengths_P = -batch.logps_NT[:6].sum(-1), batch.mask_NT[:6].sum(-1)
    summed, meant, tokens = (loss(batch, kind, nll_weight=0.5, nll_reduction=how) for how in ("seq_sum", "seq_mean", "token_mean"))
    same(summed.per_unit, bare.per_unit + 0.5 * nll_P * batch.pair_weight_P)
    same(meant.per_unit, bare.per_unit + 0.5 * nll_P / lengths_P * batch.pair_weight_P)
    same(tokens.per_unit, bare.per_unit)
    assert tokens.per_chosen_token_PT is not None and not tokens.per_chosen_token_PT[~batch.mask_NT[:6]].any()
    same(tokens.per_chosen_token_PT.sum(-1), 0.5 * nll_P * batch.pair_weight_P)
    same(tokens.terms["nll"], nll_P / lengths_P)


def test_pessimistic_vpo_is_rpo_but_for_a_constant() -> None:
    batch = pairs()
    ours = per_unit(batch, "rpo", beta=0.2, nll_weight=0.3 * 0.2, nll_reduction="seq_sum")
    constant = 0.3 * 0.2 * batch.ref_logps_NT[:6].sum(-1)  # type: ignore[index]
    same(per_unit(batch, "vpo", beta=0.2, alpha=0.3, form="offline"), ours + constant)


CLOSED_FORMS: dict[str, Callable[[], float]] = {
    "rdpo": lambda: math.log(2),
    "hinge": lambda: 1.0,
    "nca": lambda: 2 * math.log(2),
    "apo_zero": lambda: 1.0,
    "apo_down": lambda: 1.0,
    "discopop": lambda: math.log(2) / 2 + 0.5,
    "exo": lambda: -math.log(2) - math.log(1e-3 * (1 - 1e-3)) / 2,
    "osp": lambda: math.log(2),
    "spin": lambda: math.log(2),
}


@pytest.mark.parametrize("kind", CLOSED_FORMS)
def test_before_the_first_step_losses_have_their_closed_form(kind: str) -> None:
    same(per_unit(at_reference(), kind), torch.full((6,), CLOSED_FORMS[kind](), dtype=torch.float64))


# Not those that lower both (apo_down), see a hump at 0 (discopop), or hold the chosen where it is (nca). SLiC's margin is
# wide enough for all pairs to be within it.
RISING = [each | ({"delta": 20.0} if each["kind"] == "slic" else {}) for each in ALL if each["kind"] not in ("apo_down", "discopop", "nca")]


@pytest.mark.parametrize("settings", RISING, ids=name)
def test_a_step_raises_the_chosen_and_lowers_the_rejected(settings: dict[str, Any]) -> None:
    batch = labelled([0.9] * 6)
    found = gradient(batch, settings)
    assert (found[:6][batch.mask_NT[:6]] < 0).all()
    assert (found[6:][batch.mask_NT[6:]] > 0).all()
    assert (found[~batch.mask_NT] == 0).all()


def test_nca_holds_the_chosen_and_apo_down_lowers_both() -> None:
    batch = at_reference()
    chosen, rejected = gradient(batch, {"kind": "nca"})[[0, 6], 0]
    assert chosen < 0 < rejected
    above = replace(batch, logps_NT=(batch.logps_NT.detach() + 50.0 * batch.mask_NT).requires_grad_())
    chosen, rejected = gradient(above, {"kind": "nca", "beta": 0.1})[[0, 6], 0]
    assert chosen > 0 and rejected > 0  # a chosen response far above the reference comes back
    lower = torch.tensor([0.0] * 6 + [1.0] * 6, dtype=torch.float64)[:, None]
    apart = replace(batch, ref_logps_NT=batch.ref_logps_NT + lower)  # type: ignore[operator]
    down = gradient(apart, {"kind": "apo_down", "beta": 0.5})
    assert (down[batch.mask_NT] > 0).all()


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_weights_scale_the_loss_and_not_the_terms(settings: dict[str, Any]) -> None:
    one, three = loss(pairs(), **settings), loss(pairs(weights=[3.0] * 6), **settings)
    same(three.per_unit, 3 * one.per_unit)
    same(total(three), 3 * total(one))
    assert {"margin", "accuracy", "chosen_logratio", "rejected_logratio"} <= set(one.terms)
    assert all(torch.equal(one.terms[term], three.terms[term]) and not one.terms[term].requires_grad for term in one.terms)


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_masked_positions_never_matter(settings: dict[str, Any]) -> None:
    batch = pairs()
    dirty = replace(batch, ref_logps_NT=torch.where(batch.mask_NT, batch.ref_logps_NT, float("nan")))  # type: ignore[call-overload]
    assert torch.equal(total(loss(batch, **settings)), total(loss(dirty, **settings)))
    assert torch.equal(gradient(batch, settings), gradient(dirty, settings))


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_saturated_pairs_stay_finite(settings: dict[str, Any]) -> None:
    """A response that is certain (0) beside one that is all but impossible, in float32 and with a large beta too."""
    for gap in (-1e4, -160.0, 160.0, 1e4):
        for beta in (0.1, 10.0):
            found, slope = saturated(settings if settings["kind"] == "slic" else {**settings, "beta": beta}, gap)
            assert torch.isfinite(found) and torch.isfinite(slope).all()


def saturated(settings: dict[str, Any], gap: float) -> tuple[torch.Tensor, torch.Tensor]:
    logps_NT = torch.tensor([[min(-gap, 0.0), 0.0], [min(gap, 0.0), 0.0]], requires_grad=True)
    mask_NT = torch.tensor([[True, True], [True, False]])
    batch = Batch(
        logps_NT, mask_NT, torch.zeros(2, 2), pair_w_P=torch.tensor([0]), pair_l_P=torch.tensor([1]), pair_label_P=torch.tensor([0.9])
    )
    found = total(loss(batch, **settings))
    return found.detach(), torch.autograd.grad(found, logps_NT)[0]


def test_wrong_settings_are_refused() -> None:
    for settings in (
        {"kind": "exo", "label_smoothing": 0.0},
        {"kind": "rdpo", "label_smoothing": 0.5},
        {"kind": "dpo", "divergence": "chi"},
        {"kind": "dpo", "ld_alpha": 1.5},
        {"kind": "rpo", "nll_reduction": "mean"},
    ):
        with pytest.raises(ValueError, match=list(settings)[1]):
            plugin.parse("objectives", settings)
