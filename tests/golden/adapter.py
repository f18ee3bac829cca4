"""Reads golden vectors and checks what is built against them: one place that knows how a vector maps to our code.

A vector names a method and a variant. The `CHECKS` of every `*_checks.py` beside this file say what checks that pair
(variant "*": any other of the method); `unbuilt.REASONS` says why one is not checked. A vector that is in neither fails.
`REMATCH_GOLDEN_DIR` points to other files of the same format. `python -m tests.golden.adapter` prints the counts.
"""

import importlib
import json
import os
import pkgutil
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests import golden
from tests.golden.compare import TOLERANCE, Vector
from tests.golden.unbuilt import REASONS

HERE = Path(__file__).parent
Check = Callable[[Vector, str], None]


@cache
def checks() -> dict[tuple[str, str], Check]:
    """What checks a (method, variant)."""
    found: dict[tuple[str, str], Check] = {}
    for module in pkgutil.iter_modules(golden.__path__):
        if module.name.endswith("_checks"):
            more = importlib.import_module(f"{golden.__name__}.{module.name}").CHECKS
            assert not found.keys() & more.keys(), f"{module.name}: {sorted(found.keys() & more.keys())} are checked elsewhere too"
            found |= more
    return found


def folder() -> Path:
    return Path(os.environ.get("REMATCH_GOLDEN_DIR", HERE))


def load() -> list[Vector]:
    """All vectors of all files in the folder: a list, or an object with a list of `cases` or `vectors`."""
    found: list[Vector] = []
    for path in sorted(folder().glob("*.json")):
        body = json.loads(path.read_text())
        vectors = body.get("cases", body.get("vectors")) if isinstance(body, dict) else body
        for at, each in enumerate(vectors or []):
            if isinstance(each, dict) and "variant" in each and ("method" in each or "metric" in each):
                found.append({**named(each, at), "file": path.name})
    return found


def named(vector: Vector, at: int) -> Vector:
    """A vector with a method and an id; those of metrics and judges have no id, and are told by method, variant and place."""
    method = vector.get("method", vector.get("metric"))
    return {"method": method, "id": f"{method}: {vector['variant']} ({at})", **vector}


def check_of(vector: Vector) -> Check | None:
    """What checks a vector, or None. What is known of a variant by name goes before what is known of its method."""
    exact = vector["method"], vector["variant"]
    return checks().get(exact) or (None if exact in REASONS else checks().get((vector["method"], "*")))


def check(vector: Vector, dtype: str) -> None:
    """Raises AssertionError if our code gives other numbers than the vector, or if nothing checks it."""
    found = check_of(vector)
    assert found is not None, f"nothing checks {vector['method']} / {vector['variant']}, and tests/golden/unbuilt.py does not say why"
    found(vector, dtype)


def reason_to_skip(vector: Vector) -> str | None:
    """Why a vector is not checked; None if it is, or if nobody says why."""
    if check_of(vector) is not None:
        return None
    method, variant = vector["method"], vector["variant"]
    return REASONS.get((method, variant), REASONS.get((method, "*")))


def report() -> int:
    """Check everything, print the counts, and return how many vectors failed."""
    counts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for vector in load():
        reason = reason_to_skip(vector)
        if reason:
            skipped[f"{vector['file']}: {vector['method']}: {reason}"] += 1
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
