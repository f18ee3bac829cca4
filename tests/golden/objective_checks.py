"""Golden vectors of the objectives of pairs, of good and bad responses, and of tokens, that see each response by itself.

A vector gives each response's log-probability as tokens, as their sum or as their mean, whichever its objective takes.

Legend: N responses (chosen first, then rejected), P pairs, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.golden.compare import Vector

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Objective:
    """How a vector is put to one of our objectives."""

    kind: str
    settings: dict[str, Any]
    """Our setting -> "=name" of the vector's parameter, a function of all its parameters, or the value that the variant stands for."""
    inputs: Callable[[Vector], Inputs] = lambda vector: vector["inputs"]
    """The vector's inputs under the names that this page knows."""
    dtype: str | None = None
    """What the vector was computed in, if that is worse than float64."""

    def __call__(self, vector: Vector, dtype: str) -> None:
        check_objective(self, vector, dtype)


def of(kind: str, *shared: str, **settings: Any) -> Objective:
    """`shared` settings have the name of the vector's parameter."""
    return Objective(kind, {name: f"={name}" for name in shared} | settings)


def settings_of(how: Objective, params: dict[str, Any]) -> dict[str, Any]:
    """Our settings; one that is named after a parameter which the vector lacks keeps its default."""
    found: dict[str, Any] = {}
    for ours, value in how.settings.items():
        if callable(value):
            found[ours] = value(params)
        elif not str(value).startswith("="):
            found[ours] = value
        elif value.removeprefix("=") in params:
            found[ours] = params[value.removeprefix("=")]
    return found


def check_objective(how: Objective, vector: Vector, dtype: str) -> None:
    """Loss, per-unit losses and gradients of one of our objectives."""
    import torch

    import objectives
    from pipeline import plugin
    from tests.golden import laid

    settings = settings_of(how, vector.get("params", {}))
    unit = objectives.unit(plugin.parse("objectives", {"kind": how.kind, **settings}))
    inputs = laid.Inputs({**vector, "inputs": how.inputs(vector)}, getattr(torch, dtype))
    laid.check(inputs, dtype, batch_of(inputs, unit), how.kind, precision=how.dtype, **settings)


def batch_of(inputs: Any, unit: str) -> Any:
    """The responses that an objective of this unit reads, and what the vector says of them."""
    import torch

    from objectives import Batch
    from tests.golden import laid

    given = inputs.vector["inputs"]
    policy, reference = ([_name(given, side) for side in sides] for sides in SIDES[unit])
    mask_NT = laid.mask([length for name in policy for length in _lengths(given, name)])
    logps_NT = _logps(inputs, policy, mask_NT, grad=True)
    known = [_logps(inputs, reference, mask_NT)] if all(reference) else []
    if unit != "pair":
        good_N = torch.tensor(given["label"]) if "label" in given else None
        return Batch(logps_NT, mask_NT, known[0] if known else None, desirable_N=good_N)
    batch = laid.paired(logps_NT, mask_NT, known)
    label = next((inputs.fixed(name) for name in LABELS if name in given), batch.pair_label_P)
    win_rates = next((torch.cat([inputs.fixed(name) for name in names]) for names in WIN_RATES if names[0] in given), None)
    return replace(batch, pair_label_P=label, win_rate_N=win_rates)


def _logps(inputs: Any, names: list[str], mask_NT: Any, *, grad: bool = False) -> Any:
    """Log-probabilities of tokens (N, T), of one or two of the vector's inputs."""
    import torch

    from tests.golden import laid

    if names[0].endswith("_token_logps"):
        return inputs.ragged(*names, grad=grad)
    return laid.spread(torch.cat([inputs.leaf(name) if grad else inputs.fixed(name) for name in names]), mask_NT)


def _lengths(given: Inputs, name: str) -> list[int]:
    """How many tokens each response has: 1 if its mean is given, so that the sum is the mean; 2 if nobody says."""
    if name.endswith("_token_logps"):
        return [len(row) for row in given[name]]
    side = name.removeprefix("policy_").removesuffix("_logps")
    return given.get(f"{side}_lengths", [1 if name.endswith("_avg_logps") else 2] * len(given[name]))


def _name(given: Inputs, side: str) -> str:
    """The vector's name of a side's log-probabilities: as tokens if it has these, else as means, else as sums; "" if it has none."""
    stems = (side, *ALIASES.get(side, ()))
    return next((f"{stem}{form}" for form in ("_token_logps", "_avg_logps", "_logps") for stem in stems if f"{stem}{form}" in given), "")


SIDES = {
    "pair": (("policy_chosen", "policy_rejected"), ("ref_chosen", "ref_rejected")),
    "row": (("policy",), ("ref",)),
    "token": (("policy_chosen",), ("ref_chosen",)),
}
"""Of each unit, the policy's responses and the reference's."""
ALIASES = {
    "policy_chosen": ("policy_real",),
    "policy_rejected": ("policy_generated",),
    "ref_chosen": ("opponent_real",),
    "ref_rejected": ("opponent_generated",),
}
WIN_RATES = (("chosen_win_prob", "rejected_win_prob"), ("chosen_probs_win", "chosen_probs_lose"))
LABELS = ("chosen_probs", "labels")


def margins(name: str, label: Callable[[Inputs], list[float]]) -> Callable[[Vector], Inputs]:
    """The inputs of a vector that gives each pair's margin of log-ratios, under `name`, and its label."""

    def inputs(vector: Vector) -> Inputs:
        given = vector["inputs"]
        nothing = [0.0] * len(given[name])
        sides = {"policy_rejected_logps": nothing, "ref_chosen_logps": nothing, "ref_rejected_logps": nothing}
        return {"policy_chosen_logps": given[name], **sides, "labels": label(given)}

    return inputs


def one_label(vector: Vector) -> Inputs:
    """The vector's inputs, with the label that it has for all its pairs among its parameters."""
    return {**vector["inputs"], "labels": [vector["params"]["preference_strength"]] * len(vector["inputs"]["policy_chosen_logps"])}


def loss_weight(at: int) -> Callable[[dict[str, Any]], float]:
    return lambda params: params["loss_weights"][at]


def divergence_of(params: dict[str, Any]) -> str:
    return DIVERGENCES[params["f_divergence_type"]]


def simpo_ratio(params: dict[str, Any]) -> float:
    """TRL's gamma is absolute."""
    return params["gamma"] / params["beta"]


def exo_smoothing(params: dict[str, Any]) -> float:
    """TRL 0.11 takes 0 to be 0.001, which is our default; we refuse 0."""
    return params["label_smoothing"] or 1e-3


DIVERGENCES = {"reverse_kl": "reverse_kl", "forward_kl": "forward_kl", "js_divergence": "js", "alpha_divergence": "alpha"}
F_DPO = of("dpo", "beta", divergence=divergence_of, divergence_alpha="=f_alpha_divergence_coef")
F_DPO_ALPHA = replace(F_DPO, dtype="float32")  # TRL takes these exponentials in float32
SIMPO_TRL = of("simpo", "beta", "label_smoothing", gamma_beta_ratio=simpo_ratio)
CONSTRAINED = ("beta", "gamma", "tau", "alpha")
BASELINE = "DPO-family(baseline in SPPO trainer)"
CHECKS: dict[tuple[str, str], Callable[[Vector, str], None]] = {
    # objectives.json
    ("dpo", "sigmoid"): of("dpo", "beta"),
    ("dpo", "reference_free"): of("dpo", "beta", reference_free=True),
    ("cdpo", "halos"): of("dpo", "beta", "label_smoothing"),
    ("cdpo", "trl_0.28_sigmoid_label_smoothing"): of("dpo", "beta", "label_smoothing"),
    ("dpo_norm", "trl_sigmoid_norm"): of("dpo", "beta", length_average=True),
    ("ld_dpo", "ld_alpha"): of("dpo", "beta", "ld_alpha"),
    ("f_dpo", "forward_kl"): F_DPO,
    ("f_dpo", "js_divergence"): F_DPO,
    ("f_dpo", "*"): F_DPO_ALPHA,
    ("dpo_gamma", "scaled_reference"): of("dpo", "beta", reference_scale="=gamma"),
    ("rdpo", "robust"): of("rdpo", "beta", "label_smoothing"),
    ("ipo", "sequence_sum_form"): of("ipo", "beta", length_average=False),
    ("ipo", "trl_length_averaged"): of("ipo", "beta", length_average=True),
    ("hinge", "trl_hinge"): of("hinge", "beta"),
    ("slic", "calibration_hinge_reference_free"): of("slic", "delta", nll_weight="=lambda_sft"),
    ("exo", "exo_pair"): of("exo", "beta", "label_smoothing"),
    ("nca", "nca_pair"): of("nca", "beta"),
    ("apo_zero", "apo_zero"): of("apo_zero", "beta"),
    ("apo_zero", "apo_zero_unpaired"): of("apo_zero", "beta", unpaired=True),
    ("apo_down", "apo_down"): of("apo_down", "beta"),
    ("discopop", "lrml"): of("discopop", "beta", tau="=discopop_tau"),
    ("simpo", "official"): of("simpo", "beta", "gamma_beta_ratio", "label_smoothing"),
    ("simpo", "trl_cpo_simpo"): SIMPO_TRL,
    ("orpo", "odds_ratio_term_only(float32 inside)"): Objective("orpo", {"beta": "=beta", "nll_weight": 0.0}, dtype="float32"),
    ("contrastive_cpo", "reference_free_sigmoid_term"): of("contrastive_cpo", "beta", "label_smoothing", nll_weight=0.0),
    ("rpo", "sigmoid_plus_alpha_token_mean_nll"): of("rpo", "beta", nll_weight="=alpha"),
    ("mpo", "0.8_sigmoid+0.2_bco_pair+1.0_sft"): of(
        "mpo", "beta", preference_weight=loss_weight(0), quality_weight=loss_weight(1), nll_weight=loss_weight(2)
    ),
    ("constrained_po", "easy_E-CPO"): of("constrained_po", *CONSTRAINED, variant="easy"),
    ("constrained_po", "clip"): of("constrained_po", *CONSTRAINED, variant="clip"),
    ("constrained_po", "softplus_margin"): of("constrained_po", *CONSTRAINED, variant="softplus"),
    ("osp", "soft_preference_ce"): Objective("osp", {"beta": "=beta"}, one_label),
    ("power", "inverse_length_weights"): of("power", "beta", "eta"),
    ("sppo", "soft_official"): of("sppo", "beta"),
    ("sppo", "sppo_hard"): of("sppo", "beta", form="hard"),
    ("sft", "chosen_token_mean_nll"): of("sft"),
    # nash.json
    ("SPPO", "sppo"): of("sppo", "beta"),
    ("SPPO", "sppo_single"): of("sppo", "beta", form="single"),
    ("SPPO", "sppo_hard (TRL)"): of("sppo", "beta", form="hard"),
    ("IPO", "iterative IPO baseline (COMAL)"): of("ipo", beta="=eta", length_average=False),
    ("SPIN", "sigmoid"): of("spin", "beta"),
    ("SPIN", "hinge"): of("spin", "beta", form="hinge"),
    ("DNO-Prct", "contrastive loss (ref = pi_t)"): of("dpo", beta="=eta"),
    (BASELINE, "sigmoid"): of("dpo", "beta"),
    (BASELINE, "hinge"): of("hinge", "beta"),
    (BASELINE, "ipo"): of("ipo", "beta", length_average=False),
    # judging.json
    ("trl_exo_pair", "*"): of("exo", "beta", label_smoothing=exo_smoothing),
    ("trl_ipo", "*"): of("ipo", "beta", length_average=False),
    ("trl_sigmoid", "*"): of("dpo", "beta", "label_smoothing"),
    ("osp_spce", "*"): Objective("osp", {"beta": "=beta"}, margins("logits", lambda given: given["p"])),
    ("upo_loss_usable", "*"): Objective("upo", {"beta": "=beta"}, margins("h", lambda given: [1 - alpha for alpha in given["alpha"]])),
    ("upo_loss_paper", "*"): Objective("upo", {"beta": "=beta", "form": "paper"}, margins("h", lambda given: given["P"])),
}
