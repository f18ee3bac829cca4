"""Golden vectors of the Nash family, of coupled objectives, and of those with extra responses: sums of log-probabilities."""

from functools import partial
from typing import Any

from tests.golden.compare import Vector, same

POLICY, REFERENCE = ("policy_chosen_logps", "policy_rejected_logps"), ("ref_chosen_logps", "ref_rejected_logps")


def _inputs(vector: Vector, dtype: str) -> Any:
    import torch

    from tests.golden import laid

    return laid.Inputs(vector, getattr(torch, dtype))


def check_inpo(vector: Vector, dtype: str) -> None:
    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    batch = inputs.pairs(POLICY, REFERENCE, ("last_chosen_logps", "last_rejected_logps"))
    laid.check(inputs, dtype, batch, "inpo", eta=params["eta"], tau=params["tau"])


def check_mnpo(vector: Vector, dtype: str) -> None:
    """The vectors were computed in float32. Where they have no history, the recipe has to say so."""
    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    present = [i for i in range(99) if f"history{i}_chosen_logps" in vector["inputs"]]
    history = [(f"history{i}_chosen_logps", f"history{i}_rejected_logps") for i in present]
    weights = params.get("weights") if history else []
    most = params.get("max_history_t", 2)
    if weights:
        weights = [*weights, *[0.0] * (most - len(weights))]
    settings = {"eta": params["eta"], "ratio": params["ratio"], "max_history": most, "history_weights": weights}
    laid.check(inputs, dtype, inputs.pairs(POLICY, REFERENCE, *history), "mnpo", precision="float32", **settings)


def check_egpo(vector: Vector, dtype: str) -> None:
    """The log-probabilities are given as means over tokens."""
    from dataclasses import replace

    import torch

    from tests.golden import laid

    inputs = _inputs(vector, dtype)
    lengths = laid.mask([1] * 2 * len(vector["inputs"]["logps_y"]))
    policy = torch.cat([inputs.leaf("logps_y"), inputs.leaf("logps_yprime")])
    reference = torch.cat([inputs.fixed("ref_logps_y"), inputs.fixed("ref_logps_yprime")])
    batch = laid.paired(laid.spread(policy, lengths), lengths, [laid.spread(reference, lengths)])
    rates = torch.cat([inputs.fixed("pref_y_vs_opponent"), inputs.fixed("pref_yprime_vs_opponent")])
    laid.check(inputs, dtype, replace(batch, win_rate_N=rates), "egpo", beta=vector["params"]["beta"])


def check_gpo(vector: Vector, dtype: str) -> None:
    """From the raw table to scores, the pair, the loss and its gradients."""
    from dataclasses import replace

    import torch

    from metrics import win_rates
    from tests.golden import laid

    given, params = vector["inputs"], vector["params"]
    scores = win_rates.scores_from_logits(given["raw_score_table_s_over_tau"])
    if not params.get("table_doubling", True):
        scores = tuple(score / 2 for score in scores)
    chosen, rejected = scores.index(max(scores)), scores.index(min(scores))
    expected = vector["expected"]
    same("scores", list(scores), expected["row_mean_scores"], dtype, 1.0)
    assert (chosen, rejected) == (expected["chosen"], expected["rejected"])
    one_by_one = {f"{who}_{side}": [given[f"{who}_{side}_logp"]] for who in ("policy", "ref") for side in ("chosen", "rejected")}
    inputs = _inputs({**vector, "inputs": one_by_one}, dtype)
    batch = inputs.pairs(("policy_chosen", "policy_rejected"), ("ref_chosen", "ref_rejected"))
    batch = replace(batch, score_N=torch.tensor([scores[chosen], scores[rejected]], dtype=inputs.dtype))
    laid.check(inputs, dtype, batch, "gpo", beta=params["beta"], clamp=params.get("clamp"))


def check_optimism(kind: str, vector: Vector, dtype: str) -> None:
    """SELM and VPO: an extra response, or, offline, none."""
    from dataclasses import replace

    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    batch = inputs.pairs(POLICY, REFERENCE)
    settings = {"beta": params["beta"], "alpha": params["alpha"]}
    if "policy_response_logps" in vector["inputs"]:
        extra = laid.extra(inputs.leaf("policy_response_logps"), inputs.fixed("ref_response_logps"))
        batch = replace(batch, extra=(extra,))
    elif kind == "vpo":
        settings["form"] = "offline"
    laid.check(inputs, dtype, batch, kind, **settings)


def check_xpo(vector: Vector, dtype: str) -> None:
    """The extra response is the pair's sample of the reference."""
    from dataclasses import replace

    import torch

    from objectives import ExtraResponses
    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    own, theirs = inputs.leaf("model_logprobs_model_data"), inputs.leaf("model_logprobs_ref_data")
    mask_NT = torch.ones(2 * len(own), own.shape[1], dtype=torch.bool)
    reference = torch.cat([inputs.fixed("ref_logprobs_model_data"), inputs.fixed("ref_logprobs_ref_data")])
    batch = laid.paired(torch.cat([own, theirs]), mask_NT, [reference])
    wins_P = torch.tensor(vector["inputs"]["chosen_mask_model_wins"])
    at_P = torch.arange(len(own))
    batch = replace(
        batch,
        pair_w_P=torch.where(wins_P, at_P, at_P + len(own)),
        pair_l_P=torch.where(wins_P, at_P + len(own), at_P),
        extra=(ExtraResponses(theirs, mask_NT[: len(own)]),),
    )
    parts = vector.get("expected_parts", {})
    base = "ipo" if "ipo" in vector["variant"].lower() else "sigmoid"
    per_pair = [a + b for a, b in zip(parts["dpo"], parts["xpo"], strict=True)] if {"dpo", "xpo"} <= parts.keys() else None
    laid.check(inputs, dtype, batch, "xpo", per_unit=per_pair, beta=params["beta"], alpha=params["alpha"], base=base)


def check_bco(vector: Vector, dtype: str) -> None:
    """A shift that is given stands for the running mean so far."""
    from dataclasses import replace

    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    batch = replace(inputs.pairs(POLICY, REFERENCE), state={"mean": params.get("delta", 0.0), "count": 1.0})
    laid.check(inputs, dtype, batch, "bco", beta=params["beta"], shift="running_mean" if "delta" in params else "none")


def check_first_bco(vector: Vector, dtype: str) -> None:
    """The running mean of a first step is the mean of its own rewards."""
    from dataclasses import replace

    from objectives import bco
    from tests.golden import laid

    inputs = _inputs(vector, dtype)
    config, batch = bco.Config(beta=vector["params"]["beta"]), inputs.pairs(POLICY, REFERENCE)
    state = bco.update(config, bco.STATE, bco.gather(config, batch))
    laid.check(inputs, dtype, replace(batch, state=state), "bco", beta=config.beta, shift="running_mean")


def check_aot(form: str, vector: Vector, dtype: str) -> None:
    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    smoothing = params.get("label_smoothing", 0.0)
    laid.check(inputs, dtype, inputs.pairs(POLICY, REFERENCE), "aot", beta=params["beta"], label_smoothing=smoothing, form=form)


def check_power_dl(vector: Vector, dtype: str) -> None:
    """The label that is given is the one in the loss: it does not move (gamma 0)."""
    from dataclasses import replace

    import torch

    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    batch = inputs.pairs(POLICY, REFERENCE)
    batch = replace(batch, pair_label_P=torch.full_like(batch.pair_weight_P, params.get("label", 1.0)))
    laid.check(inputs, dtype, batch, "power_dl", beta=params["beta"], eta=params["eta"], gamma=params.get("gamma", 0.0))


def check_rdpo(vector: Vector, dtype: str) -> None:
    """DPO with a rationale of which the sum is given."""
    from dataclasses import replace

    from tests.golden import laid

    inputs, params = _inputs(vector, dtype), vector["params"]
    batch = replace(inputs.pairs(POLICY, REFERENCE), extra=(laid.extra(inputs.leaf("policy_rationale_logps")),))
    expected = vector["expected_loss"]
    laid.check(inputs, dtype, batch, "rationale", per_unit=expected["per_example"], beta=params["beta"], gamma=params["gamma"])
    same("mean", sum(expected["per_example"]) / len(expected["per_example"]), expected["mean"], dtype, 1.0)


def check_rorpo(vector: Vector, dtype: str) -> None:
    """ORPO with a rationale. Its likelihood term is given as a number, because theirs includes the prompt."""
    from dataclasses import replace

    from tests.golden import laid

    given, params, expected = vector["inputs"], vector["params"], vector["expected_loss"]
    names = ("avg_chosen_logps", "avg_rejected_logps")
    lengths = {"chosen_lengths": [1] * len(given[names[0]]), "rejected_lengths": [1] * len(given[names[0]])}
    inputs = _inputs({**vector, "inputs": {**given, **lengths}}, dtype)
    batch = replace(inputs.pairs(names), extra=(laid.extra(inputs.leaf("avg_rationale_logps")),))
    settings = {"base": "orpo", "length_average": True, "beta": params["beta"], "gamma": params["gamma"]}
    bonuses = expected["bonus_per_example"]
    laid.check(inputs, dtype, batch, "rationale", per_unit=[-bonus for bonus in bonuses], **settings)
    same("total", given["chosen_nll"] - sum(bonuses) / len(bonuses), expected["total"], dtype, 1.0)


def check_revision(kind: str, vector: Vector, dtype: str) -> None:
    """SRPO and EVOLVE: log-ratios are given, so that the reference has 0."""
    from dataclasses import replace

    import torch

    from tests.golden import laid

    inputs, params, expected = _inputs(vector, dtype), vector["params"], vector["expected_loss"]
    given = [inputs.leaf(f"k_{answer}") for answer in ("w_given_l", "l_given_w", "w_given_w", "l_given_l")]
    nothing = torch.zeros_like(given[0])
    ratios = torch.cat([inputs.leaf("r_w"), inputs.leaf("r_l")])
    mask_NT = laid.mask([1] * len(ratios))
    batch = laid.paired(laid.spread(ratios, mask_NT), mask_NT, [torch.zeros_like(ratios)[:, None]])
    batch = replace(batch, extra=tuple(laid.extra(each, nothing) for each in given))
    share, (one, other) = params["alpha"], (("gen", "improve") if kind == "srpo" else ("dpo", "refine"))
    per_pair = [(1 - share) * a + share * b for a, b in zip(expected[one], expected[other], strict=True)]
    total = {**vector, "expected_loss": expected["total"]}
    inputs.vector = total
    laid.check(inputs, dtype, batch, kind, per_unit=per_pair, beta=params["beta"], alpha=share)


CHECKS = {
    ("INPO", "standard tau=eta/3"): check_inpo,
    ("INPO", "degenerates to IPO(ref) with tau=eta"): check_inpo,
    ("MNPO", "*"): check_mnpo,
    ("EGPO", "online-IPO minibatch loss (one half-step)"): check_egpo,
    ("GPO", "*"): check_gpo,
    ("selm", "*"): partial(check_optimism, "selm"),
    ("SELM", "*"): partial(check_optimism, "selm"),
    ("vpo", "*"): partial(check_optimism, "vpo"),
    ("VPO", "*"): partial(check_optimism, "vpo"),
    ("XPO", "*"): check_xpo,
    ("bco", "*"): check_bco,
    ("aot", "aot_paired"): partial(check_aot, "paired"),
    ("aot", "aot_unpaired"): partial(check_aot, "unpaired"),
    ("power_dl", "*"): check_power_dl,
    ("rationale_rdpo", "*"): check_rdpo,
    ("rationale_rorpo", "*"): check_rorpo,
    ("srpo", "*"): partial(check_revision, "srpo"),
    ("evolve", "*"): partial(check_revision, "evolve"),
}
