"""How close a number has to be to a golden one."""

import math
from typing import Any

TOLERANCE = {"float64": 1e-7, "float32": 1e-4}
Vector = dict[str, Any]


def same(what: str, found: Any, expected: Any, dtype: str, scale: float) -> None:
    """Each number close to the expected one: relative to itself, with room for the rounding of inputs as large as `scale`."""
    relative = TOLERANCE[dtype]
    floor = scale * (1e-12 if dtype == "float64" else 4e-6)
    ours, theirs = list(numbers(found)), list(numbers(expected))
    assert len(ours) == len(theirs), f"{what}: {len(ours)} numbers, {len(theirs)} are expected"
    # Where several numbers come from one computation, the largest of them sets the scale of its rounding.
    floor = max(floor, relative * max(map(abs, theirs), default=0.0) if dtype == "float32" else 0.0)
    for mine, other in zip(ours, theirs, strict=True):
        assert math.isfinite(mine), f"{what}: {mine}"
        assert abs(mine - other) <= relative * abs(other) + floor, f"{what}: {mine} is not {other} ({dtype})"


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        for each in value.values():
            yield from numbers(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def zeros(value: Any) -> Any:
    return [zeros(each) for each in value] if isinstance(value, list) else 0.0
