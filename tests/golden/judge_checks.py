"""Golden vectors of what judges and pair rules compute."""

from tests.golden.compare import Vector, same


def check_pair_building(vector: Vector, dtype: str) -> None:
    """Scores -> win table -> win rates -> pair, as SPPO's compute_prob.py does it."""
    from metrics import win_rates
    from rules import best_vs_worst
    from tests.support.groups import judged

    scores, expected = vector["inputs"]["rm_scores"], vector["expected"]
    table = win_rates.wins_aggregated(scores)
    rates = win_rates.win_rates(table)
    chosen, rejected = expected["chosen_index"], expected["rejected_index"]
    same("win table", [list(row) for row in table], expected["probability"], dtype, 1.0)
    same("win rate of the chosen", rates[chosen], expected["chosen_probs_win"], dtype, 1.0)
    same("win rate of the rejected", rates[rejected], expected["chosen_probs_lose"], dtype, 1.0)
    same("P(chosen beats rejected)", table[chosen][rejected], expected["chosen_probs"], dtype, 1.0)
    texts = tuple(f"response {i}" for i in range(len(scores)))
    group = judged(texts, ("stop",) * len(scores), ("model",) * len(scores), tuple(scores), table)
    # Their code filters nothing: where all scores are equal, it pairs a response with itself.
    picks, _ = best_vs_worst.choose(best_vs_worst.Config(tie="keep", identical="keep"), group, 0)
    assert [(pick.chosen, pick.rejected) for pick in picks] == [(chosen, rejected)]


def check_pairrm_scores(vector: Vector, dtype: str) -> None:
    """Directed logits -> scores and ranks; the vectors were computed in float32."""
    from metrics import win_rates

    inputs, expected = vector["inputs"], vector["expected"]
    two = [[0.0, inputs["logit_AB"]], [inputs["logit_BA"], 0.0]] if "logit_AB" in inputs else None
    scores = win_rates.scores_from_logits(two or inputs["cmp_logits"])
    same("scores", list(scores), expected["scores"], "float32", 1.0)
    if "ranks" in expected:
        assert [1 + sum(other > mine for other in scores) for mine in scores] == expected["ranks"]
    if "compare_logit" in expected:
        same("logit of a comparison", scores[0] - scores[1], expected["compare_logit"], "float32", 1.0)


CHECKS = {
    ("SPPO", "compute_prob: PairRM scores -> win-rate table -> pair"): check_pair_building,
    ("PairRM", "comparison-logit matrix -> scores/ranks (policy max_logits)"): check_pairrm_scores,
    ("PairRM", "K=2: blender.compare mode [A,B]+[B,A]"): check_pairrm_scores,
}
