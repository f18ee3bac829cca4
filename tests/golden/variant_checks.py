"""Variants that no other file knows by name, told by what their inputs are: an ablation or another setting of a known method."""

from collections.abc import Callable
from functools import partial

from tests.golden import game_checks, judge_checks, nash_checks, objective_checks, rule_checks
from tests.golden.compare import Vector

Check = Callable[[Vector, str], None]


def by_input(checks: dict[str, Check]) -> Check:
    """The check of the first of these inputs that a vector has."""

    def check(vector: Vector, dtype: str) -> None:
        found = next((one for name, one in checks.items() if name in vector["inputs"]), None)
        assert found is not None, f"inputs {sorted(vector['inputs'])} are none of {sorted(checks)}"
        found(vector, dtype)

    return check


def by_name(*kinds: str, methods: dict[str, Check]) -> Check:
    """The check of the first of these words that stands in the variant's name; of the last one if none does."""

    def check(vector: Vector, dtype: str) -> None:
        kind = next((kind for kind in kinds if kind in vector["variant"]), kinds[-1])
        methods[kind](vector, dtype)

    return check


_of = objective_checks.of
_SPPO = {"hard": _of("sppo", "beta", form="hard"), "single": _of("sppo", "beta", form="single"), "sppo": _of("sppo", "beta")}
_SPIN = {"hinge": _of("spin", "beta", form="hinge"), "sigmoid": _of("spin", "beta")}
_BASELINE = {"hinge": _of("hinge", "beta"), "ipo": _of("ipo", "beta", length_average=False), "sigmoid": _of("dpo", "beta")}

_TRL = {
    "hinge": _of("hinge", "beta"),
    "nca_pair": _of("nca", "beta"),
    "robust": _of("rdpo", "beta", "label_smoothing"),
    "sppo_hard": _of("sppo", "beta", form="hard"),
    "apo_zero": _of("apo_zero", "beta"),
    "apo_down": _of("apo_down", "beta"),
    "discopop": _of("discopop", "beta", tau="=discopop_tau"),
    "bco_pair": nash_checks.check_first_bco,
    "aot": partial(nash_checks.check_aot, "unpaired"),
    "aot_pair": partial(nash_checks.check_aot, "paired"),
}
"""What else TRL 0.11's `dpo_loss` computes, by its loss_type; three of them stand in `objective_checks`."""

CHECKS: dict[tuple[str, str], Check] = {
    **{(f"trl_{kind}", "*"): check for kind, check in _TRL.items()},
    ("INPO", "*"): by_input(
        {"policy_chosen_logps": nash_checks.check_inpo, "pref": rule_checks.check_tournament, "P": game_checks.check_inpo_update}
    ),
    ("SPPO", "*"): by_input(
        {
            "policy_chosen_logps": by_name("hard", "single", "sppo", methods=_SPPO),
            "rm_scores": judge_checks.check_pair_building,
            "P": game_checks.check_sppo_update,
        }
    ),
    ("SPIN", "*"): by_name("hinge", "sigmoid", methods=_SPIN),
    ("DNO-Prct", "*"): _of("dpo", beta="=eta"),
    ("DNO", "*"): by_input({"candidates": rule_checks.check_margins}),
    ("SPO", "*"): by_input({"pref": rule_checks.check_rewards}),
    ("EGPO", "*"): by_input({"logps_y": nash_checks.check_egpo, "P": game_checks.check_trajectory}),
    ("IPO", "*"): _of("ipo", beta="=eta", length_average=False),
    (objective_checks.BASELINE, "*"): by_name("hinge", "ipo", "sigmoid", methods=_BASELINE),
}
