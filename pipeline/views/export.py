"""Copies a table out of a run, for other tools: JSON lines, or a folder that `datasets.load_dataset` reads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline import artifact, rows
from pipeline.errors import Refusal
from pipeline.request import Asked


def export(asked: Asked, address: str, to: Path) -> dict[str, Any]:
    """Write the rows of one artifact to a new `FILE.jsonl`, or to a new folder. Never overwrites."""
    source = asked.folder / address
    made = artifact.read(source, verify=True)
    if made is None:
        raise Refusal(f"{source}: is not there yet; `rematch run {asked.folder}` builds what is missing")
    if made.manifest.dropped:
        raise Refusal(f"{source}: was dropped, as its recipe says (keep: false); `rematch run ... --from {address}` makes it again")
    if made.bases:
        raise Refusal(
            f"{source}: leans on {', '.join(made.manifest.leans_on)}, and is nothing without; copy these folders together, "
            "as they lie in the run"
        )
    if not rows.files(source):
        raise Refusal(f"{source}: holds files and no rows; copy the folder itself, a model in it loads with transformers as it is")
    if to.exists():
        raise Refusal(f"{to}: exists already, and export overwrites nothing; name another file or folder")
    if not to.parent.is_dir():
        raise Refusal(f"{to}: the folder {to.parent} is not there; make it first")
    # Under another name until it is whole, so that a full disk leaves nothing that looks finished.
    part = to.with_name(f".{to.name}.part")
    count = _jsonl(source, part) if to.suffix in (".jsonl", ".json") else _folder(source, part, made, address)
    part.rename(to)
    return {"from": str(source), "to": str(to), "table": made.manifest.makes, "rows": count}


def _jsonl(source: Path, to: Path) -> int:
    count = 0
    with to.open("w", encoding="utf-8") as out:
        for part in rows.stream(source):
            for row in part.to_pylist():
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    artifact.sync(to)
    return count


def _folder(source: Path, to: Path, made: artifact.Artifact, address: str) -> int:
    shutil.rmtree(to, ignore_errors=True)
    (to / "data").mkdir(parents=True)
    files = rows.files(source)
    for at, file in enumerate(files):
        target = to / "data" / f"train-{at:05d}-of-{len(files):05d}.parquet"
        shutil.copyfile(file, target)
        artifact.sync(target)
    (to / "README.md").write_text(_card(made, address))
    return rows.count(source)


def _card(made: artifact.Artifact, address: str) -> str:
    table = made.manifest.makes
    columns = "\n".join(f"- `{field.name}`: {field.type}" for field in pq.read_schema(rows.files(made.path)[0]))
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
# {table} of {address}

Exported by rematch from an artifact with digest `{made.manifest.digest}`.
Load it with `datasets.load_dataset("path/to/this/folder", split="train")`.

## What was asked

```json
{json.dumps(made.manifest.identity, indent=2, ensure_ascii=False)}
```

## What came out

```json
{json.dumps(made.manifest.facts, indent=2, ensure_ascii=False)}
```

## Columns

{columns}
"""
