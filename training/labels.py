"""Labels of pairs that an objective moves (POWER-DL): left beside the model, and taken up by a later training."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Refusal

FILE = "labels.parquet"


def write(folder: Path, ids: list[str], labels_U: np.ndarray) -> None:
    """Store the label of each pair."""
    pq.write_table(pa.table({"id": ids, "label": labels_U}), folder / FILE)


def read(folder: Path) -> dict[str, float]:
    """The labels that a training left. Raises Refusal if it left none."""
    if not (folder / FILE).is_file():
        raise Refusal(f"labels: {folder} has no {FILE}; name a training whose objective moves labels, or leave `labels` out")
    table = pq.read_table(folder / FILE)
    return dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))
