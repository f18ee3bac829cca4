"""Objectives whose losses depend on the whole step, carry numbers along, or compare the responses of a group."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import objectives
from objectives import Batch, ExtraResponses, aot, bco, dpo, grpo, kto, power, power_dl, pro
from pipeline import plugin
from tests.objectives.test_objectives import gradient, pairs

COUNT, TOKENS = 6, 5
COUPLED: list[tuple[Any, Any]] = [
    (kto, kto.Config(beta=0.7, desirable_weight=1.3)),
    (bco, bco.Config(beta=0.7)),
    (aot, aot.Config(beta=0.7, form="paired", label_smoothing=0.1)),
    (aot, aot.Config(beta=0.7, form="unpaired")),
]


def rows(count: int = 2 * COUNT, seed: int = 0) -> Batch:
    """Single responses, every second one good, with a mismatched response each."""
    draw = torch.Generator().manual_seed(seed)
    mask_NT = torch.arange(TOKENS) < torch.randint(1, TOKENS + 1, (count, 1), generator=draw)

    def logps() -> Tensor:
        return -torch.rand(count, TOKENS, generator=draw, dtype=torch.float64) * mask_NT

    return Batch(
        logps_NT=logps().requires_grad_(),
        mask_NT=mask_NT,
        ref_logps_NT=logps(),
        desirable_N=torch.arange(count) % 2 == 0,
        extra=(ExtraResponses(logps().requires_grad_(), mask_NT, logps() - 0.3),),
    )


def units(module: Any, seed: int = 0) -> Batch:
    return rows(seed=seed) if module is kto else pairs(COUNT, TOKENS, seed)


def part(batch: Batch, of: slice) -> Batch:
    """Some units of a batch; their rows, if they are pairs, all stay."""
    if batch.pair_w_P is not None:
        names = ("pair_w_P", "pair_l_P", "pair_label_P", "pair_weight_P")
        return replace(batch, **{name: getattr(batch, name)[of] for name in names})
    names = ("logps_NT", "mask_NT", "ref_logps_NT", "desirable_N")
    extra = tuple(ExtraResponses(each.logps_UT[of], each.mask_UT[of], each.ref_logps_UT[of]) for each in batch.extra)
    return replace(batch, extra=extra, **{name: getattr(batch, name)[of] for name in names})


def step(module: Any, config: Any, micro: list[Batch], state: dict[str, float] | None = None) -> tuple[Tensor, dict[str, float]]:
    """The sum of the losses of an optimizer step in micro-batches, as the loop goes about it, and the numbers after it."""
    gathered = [module.gather(config, batch) for batch in micro]
    whole = {name: torch.cat([each[name] for each in gathered]) for name in gathered[0]}
    assert not any(value.requires_grad for value in whole.values())
    state = dict(state or getattr(module, "STATE", {}))
    if hasattr(module, "update"):
        state = module.update(config, state, whole)
    total, at = torch.zeros((), dtype=torch.float64), 0
    for batch, mine in zip(micro, gathered, strict=True):
        size = len(next(iter(mine.values())))
        found = module.loss(config, replace(batch, whole=whole, whole_at_U=torch.arange(at, at + size), state=state))
        assert found.per_unit.shape == (size,)
        total, at = total + found.per_unit.sum(), at + size
    return total, state


@pytest.mark.parametrize(("module", "config"), COUPLED)
def test_micro_batches_do_not_matter(module: Any, config: Any) -> None:
    batch = units(module)
    count = len(batch.logps_NT) if module is kto else COUNT
    found = {}
    for cuts in ((0, count), (0, 2, count), (0, 1, 4, count)):
        micro = [part(batch, slice(a, b)) for a, b in zip(cuts, cuts[1:], strict=False)]
        total, state = step(module, config, micro)
        (leaf,) = torch.autograd.grad(total, batch.logps_NT)
        found[cuts] = (total, leaf, state)
    total, leaf, state = found.pop((0, count))
    assert leaf.abs().sum() > 0
    for other_total, other_leaf, other_state in found.values():
        assert torch.allclose(other_total, total, rtol=1e-12) and torch.allclose(other_leaf, leaf, rtol=1e-12, atol=1e-15)
        assert other_state == pytest.approx(state)


@pytest.mark.parametrize(("module", "config"), COUPLED)
def test_a_step_raises_the_good_and_lowers_the_bad(module: Any, config: Any) -> None:
    batch = units(module)
    (found,) = torch.autograd.grad(step(module, config, [batch])[0], batch.logps_NT)
    good_N = batch.desirable_N if module is kto else torch.arange(2 * COUNT) < COUNT
    assert (found[good_N][batch.mask_NT[good_N]] < 0).all() and (found[~good_N][batch.mask_NT[~good_N]] > 0).all()
    assert (found[~batch.mask_NT] == 0).all()


@pytest.mark.parametrize(("module", "config"), COUPLED)
def test_masked_positions_never_matter(module: Any, config: Any) -> None:
    batch = units(module)
    dirty = replace(batch, ref_logps_NT=torch.where(batch.mask_NT, batch.ref_logps_NT, float("nan")))
    assert torch.equal(step(module, config, [batch])[0], step(module, config, [dirty])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("module", "config"), COUPLED)
def test_saturated_units_stay_finite(module: Any, config: Any, dtype: torch.dtype) -> None:
    for gap in (-160.0, 160.0):
        batch = units(module)
        logps_NT = (batch.logps_NT.detach() + gap * (torch.arange(2 * COUNT) < 3)[:, None]).to(dtype).requires_grad_()
        extra = tuple(ExtraResponses(each.logps_UT.to(dtype), each.mask_UT, each.ref_logps_UT.to(dtype)) for each in batch.extra)
        total, _ = step(module, config, [replace(batch, logps_NT=logps_NT, ref_logps_NT=batch.ref_logps_NT.to(dtype), extra=extra)])
        assert torch.isfinite(total) and torch.isfinite(torch.autograd.grad(total, logps_NT)[0]).all()


def test_ktos_baseline_is_the_mean_of_the_step_and_not_below_zero() -> None:
    config = kto.Config(beta=0.5)
    batch = rows()
    (extra,) = batch.extra
    above = kto.gather(config, batch)["mismatched"]
    assert above.shape == (2 * COUNT,) and above.mean() > 0
    ratio_N = ((batch.logps_NT - batch.ref_logps_NT) * batch.mask_NT).sum(-1)
    sign_N = torch.where(batch.desirable_N, -1.0, 1.0)
    assert torch.allclose(step(kto, config, [batch])[0], torch.sigmoid(sign_N * 0.5 * (ratio_N - above.mean())).sum())
    below = replace(batch, extra=(replace(extra, ref_logps_UT=extra.ref_logps_UT + 9.0),))
    assert torch.allclose(step(kto, config, [below])[0], torch.sigmoid(sign_N * 0.5 * ratio_N).sum())
    total, _ = step(kto, config, [batch])
    assert torch.autograd.grad(total, extra.logps_UT, allow_unused=True) == (None,)


def test_bco_remembers_the_mean_of_all_rewards() -> None:
    config, seen, state = bco.Config(beta=0.5), [], dict(bco.STATE)
    for seed in range(3):
        batch = pairs(COUNT - seed, TOKENS, seed)
        seen.append(torch.cat(list(bco.gather(config, batch).values())))
        total, state = step(bco, config, [batch], state)
        assert state["mean"] == pytest.approx(torch.cat(seen).mean().item()) and state["count"] == len(torch.cat(seen))
    # A shift moves all rewards alike; without one the state is neither read nor needed.
    unshifted = replace(batch, state={})
    assert torch.isfinite(bco.loss(bco.Config(shift="none"), unshifted).per_unit).all()
    zero = replace(batch, ref_logps_NT=batch.logps_NT.detach(), state={"mean": 0.0, "count": 0.0})
    assert torch.allclose(bco.loss(config, zero).per_unit, torch.full((COUNT - 2,), 2 * math.log(2), dtype=torch.float64))


@pytest.mark.parametrize("form", ["paired", "unpaired"])
def test_aot_compares_what_stands_in_the_same_place(form: str) -> None:
    """Value and gradient are those of sorting, where sorting is written out."""
    config = aot.Config(beta=0.7, label_smoothing=0.1, form=form)
    batch = pairs(COUNT, TOKENS)
    total, _ = step(aot, config, [part(batch, slice(0, 2)), part(batch, slice(2, COUNT))])
    policy, reference = ((each * batch.mask_NT).sum(-1) for each in (batch.logps_NT, batch.ref_logps_NT))
    if form == "paired":
        first, second = policy[:COUNT] - policy[COUNT:], reference[:COUNT] - reference[COUNT:]
    else:
        first, second = (policy - reference)[:COUNT], (policy - reference)[COUNT:]
    delta = 0.7 * (first.sort().values - second.sort().values)
    expected = -(0.9 * torch.nn.functional.logsigmoid(delta) + 0.1 * torch.nn.functional.logsigmoid(-delta)).sum()
    assert torch.allclose(total, expected, rtol=1e-12)
    found, wanted = (torch.autograd.grad(each, batch.logps_NT)[0] for each in (total, expected))
    assert torch.allclose(found, wanted, rtol=1e-12)


def test_aot_of_one_pair_is_dpo_and_equal_values_share_no_place() -> None:
    one = part(pairs(), slice(0, 1))
    for form in ("paired", "unpaired"):
        assert torch.allclose(step(aot, aot.Config(beta=0.1, form=form), [one])[0], dpo.loss(dpo.Config(), one).per_unit.sum())
    batch = pairs()
    still = replace(batch, ref_logps_NT=batch.logps_NT.detach())  # all log-ratios are 0
    total, _ = step(aot, aot.Config(beta=0.1), [still])
    assert torch.allclose(total, torch.tensor(COUNT * math.log(2), dtype=torch.float64))
    assert torch.allclose(torch.autograd.grad(total, batch.logps_NT)[0].abs(), 0.05 * batch.mask_NT.double())


def test_power_dl_moves_labels_before_it_looks() -> None:
    batch = replace(pairs(), pair_label_P=torch.full((COUNT,), 0.8, dtype=torch.float64))
    found = power_dl.loss(power_dl.Config(gamma=0.25), batch)
    z_P = power.scores(power.Config(), batch)[0].detach()
    assert torch.allclose(found.label_P, 0.75 * 0.8 + 0.25 * torch.sigmoid(z_P)) and not found.label_P.requires_grad
    frozen = power_dl.loss(power_dl.Config(gamma=0), replace(batch, pair_label_P=found.label_P))
    assert torch.allclose(found.per_unit, frozen.per_unit)
    # With labels that do not move from 1 it is POWER; with labels that are the policy's own opinion, nothing is left but the likelihood.
    still = power_dl.Config(gamma=0)
    assert torch.allclose(power_dl.loss(still, pairs()).per_unit, power.loss(power.Config(), pairs()).per_unit)
    assert torch.allclose(gradient(power_dl, power_dl.Config(gamma=1, eta=0), batch), torch.zeros(()).double(), atol=1e-15)


def grouped(scores: list[list[float]], seed: int = 0) -> Batch:
    """Groups of responses with these scores, and the policy that made them."""
    sizes = [len(each) for each in scores]
    batch = rows(sum(sizes), seed)
    group_N = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    score_N = torch.tensor([score for each in scores for score in each], dtype=torch.float64)
    near = (batch.logps_NT.detach() + 0.3 * torch.randn(batch.mask_NT.shape, generator=torch.Generator().manual_seed(seed))) * batch.mask_NT
    return replace(batch, group_N=group_N, score_N=score_N, history_HNT=near[None])


SCORES = [[2.0, 0.5, 1.0], [0.1, 0.9], [1.0, 0.0, -1.0, 3.0]]


def test_pro_ranks_whatever_the_order_and_ignores_equal_scores() -> None:
    batch = grouped(SCORES)
    config = pro.Config()
    found = pro.loss(config, batch)
    assert found.per_unit.shape == (3,)
    order = torch.tensor([2, 0, 1, 4, 3, 8, 6, 5, 7])
    mixed = replace(batch, **{name: getattr(batch, name)[order] for name in ("logps_NT", "mask_NT", "score_N", "group_N")})
    assert torch.allclose(pro.loss(config, mixed).per_unit, found.per_unit)
    # Two responses: log(exp(c_w t) + exp(c_l t)) - c_w t is a logistic loss of the difference, at the gap of the scores.
    two = grouped([[0.9, 0.1]])
    w, length = (two.logps_NT * two.mask_NT).sum(-1), two.mask_NT.sum(-1)
    expected = torch.nn.functional.softplus(-0.8 * (w / length)[0] + 0.8 * (w / length)[1])
    assert torch.allclose(pro.loss(pro.Config(sft_weight=0), two).per_unit, expected, atol=1e-8)
    assert torch.allclose(pro.loss(pro.Config(sft_weight=0.05), two).terms["sft"], -0.05 * w[0])
    equal = grouped([[0.5, 0.5, 0.5]])
    assert torch.allclose(gradient(pro, pro.Config(sft_weight=0), equal), torch.zeros(()).double())


def test_grpo_centres_scores_within_their_group() -> None:
    batch = grouped([*SCORES, [0.7, 0.7, 0.7]])
    plain, scaled = (grpo.advantages(grpo.Config(scale=scale), batch) for scale in ("none", "group"))
    at = 0
    for each in [*SCORES, [0.7, 0.7, 0.7]]:
        centred = torch.tensor(each, dtype=torch.float64) - sum(each) / len(each)
        assert torch.allclose(plain[at : at + len(each)], centred, atol=1e-12)
        assert torch.allclose(scaled[at : at + len(each)], centred / (torch.tensor(each, dtype=torch.float64).std() + 1e-4), atol=1e-9)
        at += len(each)
    alone = grpo.advantages(grpo.Config(), grouped([[5.0], [1.0, 2.0]]))
    assert alone[0] == 0 and torch.isfinite(alone).all()
    # The policy's own fresh responses: REINFORCE, with each response's advantage over its tokens' number.
    config = grpo.Config(beta=0, on_policy=True)
    found = gradient(grpo, config, batch)
    expected = -(scaled / batch.mask_NT.sum(-1))[:, None] * batch.mask_NT
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.allclose(grpo.loss(config, batch).per_unit, -scaled)


def test_grpo_reductions_agree_where_they_must() -> None:
    batch = grouped(SCORES)
    per_row, tokens = batch.mask_NT.sum(-1), batch.mask_NT.sum()
    paper = grpo.loss(grpo.Config(), batch).per_unit
    dapo = grpo.loss(grpo.Config(reduction="dapo"), batch).per_unit
    doctor = grpo.loss(grpo.Config(reduction="dr_grpo", max_response_tokens=8), batch).per_unit
    assert dapo.shape == batch.mask_NT.shape and (dapo[~batch.mask_NT] == 0).all() and dapo.sum() / tokens != paper.mean()
    assert torch.allclose(dapo.sum(-1) / per_row, paper) and torch.allclose(dapo.sum(-1) / 8, doctor)
    assert torch.equal(grpo.loss(grpo.Config(reduction="bnpo"), batch).per_unit, dapo)
    assert grpo.unit(grpo.Config(reduction="dapo")) == "token" and grpo.unit(grpo.Config()) == "row"


def test_grpo_stops_where_the_ratio_has_gone_far_enough() -> None:
    batch = grouped([[1.0, -1.0]])
    far = replace(batch, history_HNT=(batch.logps_NT.detach() - 1.0)[None])  # rho = e
    found = gradient(grpo, grpo.Config(beta=0), far)
    assert (found[0] == 0).all() and (found[1][batch.mask_NT[1]] > 0).all()
    assert torch.allclose(grpo.loss(grpo.Config(beta=0), far).terms["clipped"], torch.ones(()).double())
    behind = replace(batch, history_HNT=(batch.logps_NT.detach() + 1.0)[None])  # rho = 1/e
    found = gradient(grpo, grpo.Config(beta=0), behind)
    assert (found[0][batch.mask_NT[0]] < 0).all() and (found[1] == 0).all()
    wide = gradient(grpo, grpo.Config(beta=0, epsilon_high=2.0), far)
    assert (wide[0][batch.mask_NT[0]] < 0).all()


def test_grpos_kl_pulls_to_the_reference_and_is_zero_there() -> None:
    batch = grouped([[0.5, 0.5, 0.5]])
    config = grpo.Config(beta=0.1, on_policy=True)
    ratio_NT = batch.logps_NT.detach() - batch.ref_logps_NT
    found = gradient(grpo, config, batch)
    assert torch.allclose(found, 0.1 * (1 - torch.exp(-ratio_NT)) / batch.mask_NT.sum(-1)[:, None] * batch.mask_NT, atol=1e-12)
    # The corrected estimate has the same value on policy, and the gradient of the true KL: the log-ratio at each token.
    corrected = grpo.Config(beta=0.1, on_policy=True, kl="corrected")
    assert torch.allclose(grpo.loss(corrected, batch).per_unit, grpo.loss(config, batch).per_unit)
    expected = 0.1 * ratio_NT / batch.mask_NT.sum(-1)[:, None] * batch.mask_NT
    assert torch.allclose(gradient(grpo, corrected, batch), expected, atol=1e-12)
    still = replace(batch, ref_logps_NT=batch.logps_NT.detach())
    assert (grpo.loss(config, still).terms["kl"] == 0).all() and (gradient(grpo, config, still) == 0).all()


def test_masked_tokens_of_groups_never_matter() -> None:
    batch = grouped(SCORES)
    dirty = {name: torch.where(batch.mask_NT, getattr(batch, name), float("nan")) for name in ("ref_logps_NT", "history_HNT")}
    soiled = replace(batch, **dirty)
    for config in (grpo.Config(), grpo.Config(reduction="dapo", kl="corrected"), grpo.Config(importance="sequence")):
        assert torch.equal(grpo.loss(config, batch).per_unit, grpo.loss(config, soiled).per_unit)
        assert torch.equal(gradient(grpo, config, batch), gradient(grpo, config, soiled))


def test_settings_lift_needs_and_are_refused_where_they_disagree() -> None:
    def needs(**settings: Any) -> frozenset[str]:
        return objectives.needs(plugin.parse("objectives", settings))

    assert needs(kind="grpo") == {"groups", "scores", "history", "reference"}
    assert needs(kind="grpo", on_policy=True, beta=0) == {"groups", "scores"}
    with pytest.raises(ValueError, match="max_response_tokens"):
        grpo.Config(reduction="dr_grpo")
    with pytest.raises(ValueError, match="reduction grpo"):
        grpo.Config(reduction="dapo", importance="sequence")
    for module, _ in [*COUPLED, (grpo, None), (pro, None), (power_dl, None)]:
        assert objectives.WANTS.keys() >= module.NEEDS
        assert hasattr(module, "EXTRAS") is ("extra" in module.NEEDS)
