"""Cuts the research files down to the methods that are built, so that a clone alone can check them.

python -m tests.golden.make FOLDER      # FOLDER holds objectives.json, nash.json and metrics.json
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
)


def main(source: Path) -> None:
    for name, key in (("objectives.json", "cases"), ("nash.json", "vectors"), ("metrics.json", "cases")):
        body: dict[str, Any] = json.loads((source / name).read_text())
        cases = [each for each in body[key] if (adapter.named(each)["method"], each["variant"]) in adapter.CHECKS]
        lines = [json.dumps({k: v for k, v in each.items() if k in (*KEPT, *EXPECTED) and v is not None}) for each in cases]
        note = f"{len(cases)} of {len(body[key])} vectors of {name}: the methods built here. Each names the code it was computed with."
        joined = ",\n".join(lines)
        (adapter.HERE / name).write_text(f'{{"note": {json.dumps(note)},\n"{key}": [\n{joined}\n]}}\n')
        print(name, len(cases), "kept")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
