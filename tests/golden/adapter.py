"""Reads golden vectors and checks what is built against them: one place that knows how a vector maps to our code.

A vector names a method and a variant. `CHECKS` says what checks that pair; what is not there is skipped by name.
`REMATCH_GOLDEN_DIR` points to other files of the same format. `python -m tests.golden.adapter` prints the counts.

Legend: N responses (chosen first, then rejected), P pairs, T tokens.
"""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.golden import metric_checks

HERE = Path(__file__).parent
TOLERANCE = {"float64": 1e-7, "float32": 1e-4}
Vector = dict[str, Any]


@dataclass(frozen=True)
class Objective:
    """How a vector is put to one of our objectives."""

    kind: str
    fixed: dict[str, Any]
    """Settings that the variant stands for."""
    renamed: dict[str, str]
    """Our setting -> the vector's parameter."""

    def __call__(self, vector: Vector, dtype: str) -> None:
        check_objective(self, vector, dtype)


def of(kind: str, *shared: str, **given: Any) -> Objective:
    """`shared` parameters have our name; a given string is the vector's name of ours, anything else a fixed setting."""
    renamed = {name: name for name in shared} | {ours: theirs for ours, theirs in given.items() if str(theirs).startswith("=")}
    fixed = {ours: value for ours, value in given.items() if not str(value).startswith("=")}
    return Objective(kind, fixed, {ours: theirs.removeprefix("=") for ours, theirs in renamed.items()})


def folder() -> Path:
    return Path(os.environ.get("REMATCH_GOLDEN_DIR", HERE))


def load() -> list[Vector]:
    """All vectors of all files in the folder."""
    found: list[Vector] = []
    for path in sorted(folder().glob("*.json")):
        body = json.loads(path.read_text())
        vectors = body.get("cases", body.get("vectors")) if isinstance(body, dict) else None
        for each in vectors or []:
            if isinstance(each, dict) and "variant" in each and ("method" in each or "metric" in each):
                found.append({**named(each), "file": path.name})
    return found


def named(vector: Vector) -> Vector:
    """A vector with a method and an id; those of metrics have neither, and are told by metric and variant."""
    metric = vector.get("metric")
    return vector if metric is None else {"method": metric, "id": f"{metric}: {vector['variant']}", **vector}


def check(vector: Vector, dtype: str) -> None:
    """Raises AssertionError if our code gives other numbers than the vector; KeyError if nothing checks it."""
    CHECKS[vector["method"], vector["variant"]](vector, dtype)


def reason_to_skip(vector: Vector) -> str | None:
    """Why a vector is not checked, or None."""
    method, variant = vector["method"], vector["variant"]
    if (method, variant) in CHECKS:
        return None
    known = {each for each, _ in CHECKS}
    return f"not built yet: {method} / {variant}" if method in known else f"not built yet: method {method}"


def check_objective(how: Objective, vector: Vector, dtype: str) -> None:
    """Loss, per-unit losses and gradients of one of our objectives."""
    import torch

    from pipeline import plugin

    inputs, params = vector["inputs"], vector.get("params", {})
    settings = how.fixed | {ours: params[theirs] for ours, theirs in how.renamed.items() if theirs in params}
    module = plugin.load("objectives", how.kind)
    batch, leaves = _batch(inputs, module.UNIT == "token", getattr(torch, dtype))
    loss = module.loss(module.Config(**settings), batch)
    units = int(batch.mask_NT.sum()) if module.UNIT == "token" else len(loss.per_unit)
    mean = loss.per_unit.sum() / units
    mean.backward()
    scale = max([1.0, *(abs(value) for value in _numbers(inputs))])
    if vector.get("expected_loss") is not None:
        _same("loss", mean.item(), vector["expected_loss"], dtype, scale)
    per_example = vector.get("expected_per_example_loss", vector.get("expected_loss_per_example"))
    if per_example is not None and module.UNIT != "token":
        _same("per-unit losses", loss.per_unit.tolist(), per_example, dtype, scale)
    for name, expected in (vector.get("expected_grad") or vector.get("expected_grads") or {}).items():
        gradient = leaves[name].grad if name in leaves else None
        found = 0.0 if gradient is None else gradient.tolist()
        _same(f"gradient of {name}", found if gradient is not None else _zeros(expected), expected, dtype, scale)


def _batch(inputs: dict[str, Any], per_token: bool, dtype: Any) -> tuple[Any, dict[str, Any]]:
    """A Batch of the vector's inputs, and the tensors that gradients are taken of."""
    import torch

    from objectives import Batch

    leaves: dict[str, Any] = {}

    def leaf(name: str) -> Any:
        leaves[name] = torch.tensor(inputs[name], dtype=dtype, requires_grad=True)
        return leaves[name]

    if per_token:  # the losses of chosen tokens alone
        rows = [torch.tensor(row, dtype=dtype, requires_grad=True) for row in inputs["policy_chosen_token_logps"]]
        leaves["policy_chosen_token_logps"] = _Ragged(rows)
        lengths_N = torch.tensor([len(row) for row in rows])
        return Batch(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), _mask(lengths_N)), leaves
    pairs = len(inputs["policy_chosen_logps"])
    lengths_N = torch.tensor([*inputs.get("chosen_lengths", [2] * pairs), *inputs.get("rejected_lengths", [2] * pairs)])
    mask_NT = _mask(lengths_N)

    def spread(total_N: Any) -> Any:
        """A sum over tokens as tokens: all of it in the first, which is as good as any other split."""
        return torch.nn.functional.pad(total_N[:, None], (0, mask_NT.shape[1] - 1))

    reference = None
    if "ref_chosen_logps" in inputs:
        reference = spread(torch.tensor([*inputs["ref_chosen_logps"], *inputs["ref_rejected_logps"]], dtype=dtype))
    win_rates = next((inputs[a] + inputs[b] for a, b in WIN_RATES if a in inputs), None)
    labels = inputs.get("chosen_probs", [1.0] * pairs)
    return (
        Batch(
            logps_NT=spread(torch.cat([leaf("policy_chosen_logps"), leaf("policy_rejected_logps")])),
            mask_NT=mask_NT,
            ref_logps_NT=reference,
            pair_w_P=torch.arange(pairs),
            pair_l_P=torch.arange(pairs) + pairs,
            pair_label_P=torch.tensor(labels, dtype=dtype),
            pair_weight_P=torch.ones(pairs, dtype=dtype),
            win_rate_N=None if win_rates is None else torch.tensor(win_rates, dtype=dtype),
        ),
        leaves,
    )


WIN_RATES = (("chosen_win_prob", "rejected_win_prob"), ("chosen_probs_win", "chosen_probs_lose"))


class _Ragged:
    """Rows of different lengths, looking like one tensor to whoever wants its gradient."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    @property
    def grad(self) -> "_Ragged":
        return self

    def tolist(self) -> list[list[float]]:
        return [row.grad.tolist() for row in self._rows]


def _mask(lengths_N: Any) -> Any:
    import torch

    return torch.arange(int(lengths_N.max())) < lengths_N[:, None]


def check_pair_building(vector: Vector, dtype: str) -> None:
    """Scores -> win table -> win rates -> pair, as SPPO's compute_prob.py does it."""
    from judges import _winrates
    from rules import Judged, best_vs_worst

    scores, expected = vector["inputs"]["rm_scores"], vector["expected"]
    table = _winrates.wins_aggregated(scores)
    rates = _winrates.win_rates(table)
    chosen, rejected = expected["chosen_index"], expected["rejected_index"]
    _same("win table", [list(row) for row in table], expected["probability"], dtype, 1.0)
    _same("win rate of the chosen", rates[chosen], expected["chosen_probs_win"], dtype, 1.0)
    _same("win rate of the rejected", rates[rejected], expected["chosen_probs_lose"], dtype, 1.0)
    _same("P(chosen beats rejected)", table[chosen][rejected], expected["chosen_probs"], dtype, 1.0)
    texts = tuple(f"response {i}" for i in range(len(scores)))
    group = Judged(texts, ("stop",) * len(scores), ("model",) * len(scores), tuple(scores), table)
    # Their code filters nothing: where all scores are equal, it pairs a response with itself.
    picks, _ = best_vs_worst.choose(best_vs_worst.Config(tie="keep", identical="keep"), group)
    assert [(pick.chosen, pick.rejected) for pick in picks] == [(chosen, rejected)]


def check_pairrm_scores(vector: Vector, dtype: str) -> None:
    """Directed logits -> scores and ranks; the vectors were computed in float32."""
    from judges import _winrates

    inputs, expected = vector["inputs"], vector["expected"]
    two = [[0.0, inputs["logit_AB"]], [inputs["logit_BA"], 0.0]] if "logit_AB" in inputs else None
    scores = _winrates.scores_from_logits(two or inputs["cmp_logits"])
    _same("scores", list(scores), expected["scores"], "float32", 1.0)
    if "ranks" in expected:
        assert [1 + sum(other > mine for other in scores) for mine in scores] == expected["ranks"]
    if "compare_logit" in expected:
        _same("logit of a comparison", scores[0] - scores[1], expected["compare_logit"], "float32", 1.0)


Check = Callable[[Vector, str], None]
BASELINE = "DPO-family(baseline in SPPO trainer)"
CHECKS: dict[tuple[str, str], Check] = {
    ("dpo", "sigmoid"): of("dpo", "beta"),
    ("dpo", "reference_free"): of("dpo", "beta", reference_free=True),
    ("cdpo", "halos"): of("dpo", "beta", "label_smoothing"),
    ("cdpo", "trl_0.28_sigmoid_label_smoothing"): of("dpo", "beta", "label_smoothing"),
    ("ipo", "sequence_sum_form"): of("ipo", "beta", length_average=False),
    ("ipo", "trl_length_averaged"): of("ipo", "beta", length_average=True),
    ("sppo", "soft_official"): of("sppo", "beta"),
    ("sppo", "sppo_hard"): of("sppo", "beta", form="hard"),
    ("sft", "chosen_token_mean_nll"): of("sft"),
    ("SPPO", "sppo"): of("sppo", "beta"),
    ("SPPO", "sppo_single"): of("sppo", "beta", form="single"),
    ("SPPO", "sppo_hard (TRL)"): of("sppo", "beta", form="hard"),
    ("SPPO", "compute_prob: PairRM scores -> win-rate table -> pair"): check_pair_building,
    ("PairRM", "comparison-logit matrix -> scores/ranks (policy max_logits)"): check_pairrm_scores,
    ("PairRM", "K=2: blender.compare mode [A,B]+[B,A]"): check_pairrm_scores,
    ("IPO", "iterative IPO baseline (COMAL)"): of("ipo", beta="=eta", length_average=False),
    (BASELINE, "sigmoid"): of("dpo", "beta"),
    (BASELINE, "ipo"): of("ipo", "beta", length_average=False),
    **metric_checks.CHECKS,
}


def _same(what: str, found: Any, expected: Any, dtype: str, scale: float) -> None:
    """Each number close to the expected one: relative to itself, with room for the rounding of inputs as large as `scale`."""
    relative = TOLERANCE[dtype]
    floor = scale * (1e-12 if dtype == "float64" else 4e-6)
    ours, theirs = list(_numbers(found)), list(_numbers(expected))
    assert len(ours) == len(theirs), f"{what}: {len(ours)} numbers, {len(theirs)} are expected"
    # Where several numbers come from one computation, the largest of them sets the scale of its rounding.
    floor = max(floor, relative * max(map(abs, theirs), default=0.0) if dtype == "float32" else 0.0)
    for mine, other in zip(ours, theirs, strict=True):
        assert math.isfinite(mine), f"{what}: {mine}"
        assert abs(mine - other) <= relative * abs(other) + floor, f"{what}: {mine} is not {other} ({dtype})"


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def _zeros(value: Any) -> Any:
    return [_zeros(each) for each in value] if isinstance(value, list) else 0.0


def report() -> int:
    """Check everything, print the counts, and return how many vectors failed."""
    counts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for vector in load():
        reason = reason_to_skip(vector)
        if reason:
            skipped[f"{vector['file']}: {reason}"] += 1
            continue
        try:
            for dtype in TOLERANCE:
                check(vector, dtype)
            counts["checked"] += 1
        except AssertionError as error:
            counts["failed"] += 1
            print(f"FAILED {vector['file']} {vector['id']} ({vector['method']} / {vector['variant']}): {error}")
    print(f"{folder()}: {counts['checked']} checked, {sum(skipped.values())} skipped, {counts['failed']} failed")
    for reason, count in sorted(skipped.items()):
        print(f"  skipped {count:4d}  {reason}")
    return counts["failed"]


if __name__ == "__main__":
    sys.exit(1 if report() else 0)
