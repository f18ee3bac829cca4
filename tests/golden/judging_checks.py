"""How the golden vectors of judging map to our functions."""

from collections.abc import Callable

from tests.golden.compare import Vector, same


def check_elo(vector: Vector, dtype: str) -> None:
    """Battles of (first, second, winner), counted by place, weighted, and rated."""
    from metrics import elo

    params, expected = vector["params"], vector["expected_loss"]
    battles = [(first, second, float(winner == first)) for first, second, winner in vector["inputs"]["battles"]]
    first = sum(share for _, _, share in battles)
    weights = elo.place_weights(first, len(battles) - first)
    same("weights", weights, (params["w_first"], params["w_second"]), dtype, 1.0)
    assert weights is not None
    wins_KK = elo.weighted_wins(battles, len(expected["elo"]), weights)
    same("Elo", elo.elo(wins_KK, params["l2"]).tolist(), expected["elo"], dtype, 1.0)


CHECKS: dict[tuple[str, str], Callable[[Vector, str], None]] = {("meta_rewarding_elo", "3 judgements, both orders"): check_elo}
