"""Which sequences go through a model together: those of similar length, as many as a budget of padded tokens takes."""

from collections.abc import Iterable, Iterator, Sequence


def by_length(lengths: Sequence[int], tokens: int, among: Iterable[int] | None = None) -> Iterator[list[int]]:
    """Indices in batches of at most `tokens` padded tokens (at least one), the longest first, of equal ones the first first.

    So batches are the same whenever the lengths are. `among`: these indices alone.
    """
    order = sorted(range(len(lengths)) if among is None else among, key=lambda at: (-lengths[at], at))
    at = 0
    while at < len(order):
        batch = order[at : at + max(1, tokens // max(lengths[order[at]], 1))]
        yield batch
        at += len(batch)
