"""The verdicts of an `evaluate` report looked at again: its win rate at equal length, and beside it the rule-checked accuracy.

Responses are compared within a prompt, lengths are mean characters of each side's responses (arXiv:2404.04475 has one each).
The penalty of the fit is AlpacaEval's fixed one, not one chosen for each set, so that rounds compare: with little to tell,
cross-validation may choose a penalty under which every win rate is a half.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from metrics import lc_win_rate
from pipeline import rows
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from stages import _columns
from stages._matches import OURS, THEIRS

RESAMPLES = 200
INVERSE_PENALTY = 100.0


def facts(report: Path, seed: int) -> Facts:
    """Win rates as shares, with a 95 % bootstrap interval over prompts."""
    if not (report / "judged").is_dir():
        raise Refusal(f"head_to_head: {report} holds no judged responses; name a report of the stage evaluate")
    told: Facts = json.loads((report / "report.json").read_text())
    preference_P, mine_P, other_P = read(report / "judged")
    found: Facts = {"gold_accuracy": told.get("accuracy"), "head_to_head_prompts": len(preference_P)}
    if len(preference_P) < 2:
        return found
    whole = lc_win_rate.lc_win_rate(preference_P, mine_P, other_P, inverse_penalty=INVERSE_PENALTY)
    draw, resampled = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        at = draw.integers(0, len(preference_P), len(preference_P))
        resampled.append(lc_win_rate.lc_win_rate(preference_P[at], mine_P[at], other_P[at], inverse_penalty=INVERSE_PENALTY).win_rate)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return found | {
        "raw_win_rate": whole.raw_win_rate,
        "length_controlled_win_rate": whole.win_rate,
        "length_controlled_win_rate_low": float(low),
        "length_controlled_win_rate_high": float(high),
        "length_controlled_extreme": whole.extreme,
        "mean_length_ratio": float(mine_P.mean() / other_P.mean()) if other_P.mean() else None,
    }


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each decided prompt: P(ours beats theirs) over all cross pairs, and both sides' mean characters."""
    found: list[tuple[float, float, float]] = []
    for table in rows.stream(folder, ["responses", "scores", "wins"]):
        spans, responses = _columns.spans(table, "responses"), _columns.flat(table, "responses")
        columns = [list(_columns.rows_of(_columns.strings(responses, name), spans)) for name in ("text", "source")]
        for texts, sides, scores, wins in zip(*columns, table["scores"].to_pylist(), _columns.wins(table), strict=True):
            ours, theirs = ([i for i, side in enumerate(sides) if side == who] for who in (OURS, THEIRS))
            won = [w for i in ours for j in theirs if (w := _win(scores, wins, i, j)) is not None]
            if won:
                mine, other = (float(np.mean([len(texts[i]) for i in side])) for side in (ours, theirs))
                found.append((sum(won) / len(won), mine, other))
    preference_P, mine_P, other_P = np.asarray(found, float).reshape(-1, 3).T
    return preference_P, mine_P, other_P


def _win(scores: list[float | None], wins: Any, i: int, j: int) -> float | None:
    if wins is not None:
        return wins[i][j]
    mine, other = scores[i], scores[j]
    return None if mine is None or other is None else 0.5 if mine == other else float(mine > other)
