"""Batches by length: the budget is kept, nothing is lost, and the order depends on the lengths alone."""

from models.batching import by_length


def test_batches_keep_the_budget_and_lose_nothing():
    lengths = [3, 9, 1, 4, 4, 20, 2]
    batches = list(by_length(lengths, 12))
    assert batches == [[5], [1], [3, 4, 0], [6, 2]]
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 12 for batch in batches)


def test_some_alone_and_none_at_all():
    assert list(by_length([3, 9, 1], 4, among=[2, 0])) == [[0], [2]]
    assert list(by_length([], 4)) == [] and list(by_length([0, 0], 4)) == [[0, 1]]
