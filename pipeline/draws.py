"""Draws that depend on what is drawn for, and on nothing else: no generator, no order, no position."""

from blake3 import blake3


def draw(*what: object) -> int:
    """64 bits that are as good as random, and the same for the same `what` on every machine, such as a seed and a row's id."""
    return int.from_bytes(blake3("/".join(map(str, what)).encode()).digest(8))
