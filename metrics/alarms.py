"""When a diagnostic is out of bounds: thresholds on facts, and one sentence for each that is crossed.

The thresholds are this project's own, after what the field reports of collapse and reward hacking; a recipe may move them.
An alarm says where to look; it stops nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Facts = Mapping[str, object]


@dataclass(frozen=True)
class Bound:
    """A fact may not be above (or below) a limit."""

    limit: float
    above: bool
    """Whether larger values are the bad ones."""
    meaning: str
    """What it is a sign of, and what to do."""


BOUNDS: dict[str, Bound] = {
    "length_ratio_to_first": Bound(1.5, True, "responses grow; control length in the judge or the objective"),
    "length_growth_since_last": Bound(0.15, True, "responses grew within one round; control length in the judge or the objective"),
    "longer_wins": Bound(0.65, True, "the judge prefers length; use another judge, or control length"),
    "position_consistency": Bound(
        0.8, False, "the judge's verdict hangs on the order it is shown; use another judge, or average the orders"
    ),
    "position_bias": Bound(0.15, True, "the judge favours a place; use another judge or prompt, or average the orders"),
    "judge_kappa": Bound(0.3, False, "the judge's samples hardly agree beyond chance; use more of them, a plainer rubric, another judge"),
    "kl_k3_per_token_nats": Bound(0.3, True, "the policy is far from where it came from; train less, or with a larger beta"),
    "kl_ratio_to_last": Bound(2.0, True, "the divergence more than doubled in a round; train less, or with a larger beta"),
    "entropy_ratio_to_first": Bound(0.5, False, "samples become certain; train less, or sample warmer"),
    "distinct_2_ratio_to_first": Bound(0.7, False, "samples repeat themselves; train less, or filter repetition"),
    "saturated_share": Bound(0.5, True, "most pairs are learned already; make harder pairs"),
    "score_gap_ratio_to_first": Bound(0.3, False, "chosen and rejected are scored ever more alike; anchor one side, or change the rule"),
    "representation_cosine": Bound(0.95, True, "chosen and rejected look alike to the model, and the gradient fades; anchor one side"),
    "text_gap": Bound(0.1, False, "chosen and rejected are nearly the same text; sample more differently, or filter near duplicates"),
    "kept_share": Bound(0.3, False, "few prompts give a pair; loosen the rule, or sample more"),
    "cycle_rate": Bound(0.05, True, "the judge's preferences go in circles; use another judge, or one score a response"),
    "zero_spread_share": Bound(0.4, True, "the judge often gives all responses one score; use a finer scale, or several samples of it"),
}
DISPLACED = "rejected_logratio_per_token_nats"
"""The fact under which falling log-probabilities of both sides are told."""


def alarms(facts: Facts, earlier: Sequence[Facts] = (), limits: Mapping[str, float] | None = None) -> list[str]:
    """A sentence for each bound that is crossed, `fact: value ...; what to do`, in a fixed order; absent facts are fine.

    `earlier` are the facts of the rounds before, oldest first; `limits` replace those of BOUNDS by name.
    """
    found = []
    for name, bound in BOUNDS.items():
        value, limit = number(facts, name), (limits or {}).get(name, bound.limit)
        if value is not None and (value > limit if bound.above else value < limit):
            found.append(f"{name}: {value:.4g} is {'above' if bound.above else 'below'} {limit:.4g}: {bound.meaning}")
    return [*found, *_displaced(facts, earlier[-1] if earlier else None), *_length_controlled(facts), *_proxy([*earlier, facts])]


def _displaced(facts: Facts, last: Facts | None) -> list[str]:
    """Likelihood displacement: chosen and rejected both lose probability in training, and more than in the round before."""
    names = ("chosen_logratio_per_token_nats", DISPLACED)
    now = [number(facts, name) for name in names]
    before = [number(last or {}, name) for name in names]
    for mine, was in zip(now, before, strict=True):
        if mine is None or mine >= 0 or (was is not None and mine >= was):
            return []
    return [
        f"{DISPLACED}: {now[1]:.4g}, and {now[0]:.4g} of the chosen: training lowers the probability of both; "
        "add a likelihood term, or an objective that anchors the chosen"
    ]


def _length_controlled(facts: Facts) -> list[str]:
    """AlpacaEval's own warning: the win rate at equal length is far from the raw one."""
    if not facts.get("length_controlled_extreme"):
        return []
    at_equal, raw = number(facts, "length_controlled_win_rate"), number(facts, "raw_win_rate")
    return [f"length_controlled_win_rate: {at_equal:.3f} is far from the raw {raw:.3f}: length decides much of it, or the fit has failed"]


def _proxy(rounds: Sequence[Facts]) -> list[str]:
    """The judge's win rate rises while the rule-checked accuracy falls, twice in a row."""
    names = ("raw_win_rate", "gold_accuracy")
    judge, gold = ([number(each, name) for each in rounds[-3:]] for name in names)
    if len(judge) < 3 or None in judge or None in gold:
        return []
    rising = all(a < b for a, b in zip(judge, judge[1:], strict=False))  # type: ignore[operator]
    falling = all(a > b for a, b in zip(gold, gold[1:], strict=False))  # type: ignore[operator]
    if not (rising and falling):
        return []
    return [
        f"gold_accuracy: {gold[-1]:.3f} falls for two rounds while the judge's win rate rises: the judge is being gamed; stop or roll back"
    ]


def number(facts: Facts, name: str) -> float | None:
    """A fact as a number; None if it is not there or is none."""
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
