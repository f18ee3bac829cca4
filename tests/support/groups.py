"""Judged groups as rules see them."""

from collections.abc import Sequence

from judges import Group, Verdict


def judged(
    texts: Sequence[str], finish_reasons: Sequence[str], sources: Sequence[str], scores: Sequence[float | None], wins=None, id: str = "x"
) -> Group:
    return Group(id, (), tuple(texts), {}, tuple(sources), tuple(finish_reasons), verdict=Verdict(tuple(scores), wins))
