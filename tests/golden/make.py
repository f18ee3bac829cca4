"""Cuts the research files down to the methods that are built, so that a clone alone can check them.

python -m tests.golden.make FOLDER      # FOLDER holds objectives.json, nash.json, judging.json and metrics.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.golden import adapter

KEPT = ("id", "method", "metric", "variant", "fixture", "inputs", "params", "raw_win_rate", "source", "evidence")
EXPECTED = (
    "expected",
    "expected_loss",
    "expected_per_example_loss",
    "expected_loss_per_example",
    "expected_grad",
    "expected_grads",
    "expected_parts",
)


def main(source: Path) -> None:
    for name in ("objectives.json", "nash.json", "judging.json", "metrics.json"):
        body: Any = json.loads((source / name).read_text())
        vectors: list[dict[str, Any]] = body if isinstance(body, list) else body.get("cases", body.get("vectors"))
        cases = [each for at, each in enumerate(vectors) if adapter.check_of(adapter.named(each, at)) is not None]
        lines = [json.dumps({k: v for k, v in each.items() if k in (*KEPT, *EXPECTED) and v is not None}) for each in cases]
        note = f"{len(cases)} of {len(vectors)} vectors of {name}: the methods built here. Each names the code it was computed with."
        joined = ",\n".join(lines)
        (adapter.HERE / name).write_text(f'{{"note": {json.dumps(note)},\n"cases": [\n{joined}\n]}}\n')
        print(name, len(cases), "kept")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
