"""Row groups are cut by rows and by bytes, and where depends on the rows alone."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import rows
from tests.support import steps


def table(count=60):
    """Rows of uneven weight, some of them null, one beyond the limit by itself."""
    made = steps.candidates({f"p{i:02d}": ["x" * (37 * i % 300)] * (i % 4) for i in range(count)})
    made[7]["responses"] = None
    made[20] = {**made[20], "responses": [steps.response("y" * 5000)]}
    return rows.from_pylist("candidates", made)


@pytest.mark.parametrize("limit", [1, 700, 4000, 10**9])
def test_how_rows_are_appended_changes_no_byte(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(rows, "GROUP_BYTES", limit)
    monkeypatch.setattr(rows, "GROUP_ROWS", 16)
    monkeypatch.setattr(rows, "FILE_GROUPS", 3)
    whole = table()
    found = []
    for size in (1, 5, 16, 23, 60):
        folder = tmp_path / str(size)
        folder.mkdir()
        rows.write(folder, "candidates", [whole.slice(at, size) for at in range(0, 60, size)])
        assert rows.read(folder).equals(whole) and rows.read(folder, start=9, stop=41).equals(whole.slice(9, 32))
        found.append({file.name: file.read_bytes() for file in rows.files(folder)})
    assert all(each == found[0] for each in found)
    for file in rows.files(tmp_path / "1"):
        with pq.ParquetFile(file) as opened:
            assert opened.num_row_groups <= 3
            for group in range(opened.num_row_groups):
                read = opened.read_row_group(group)
                weight = int(rows._row_bytes(read).sum())
                assert read.num_rows <= 16 and (read.num_rows == 1 or weight <= limit)
                assert pa.concat_tables([read]).combine_chunks().nbytes <= weight + 64 * 8


@pytest.mark.parametrize("reverse", [False, True])
def test_tables_with_other_row_groups_are_joined_row_by_row(tmp_path, monkeypatch, reverse):
    ours = {f"p{i:02d}": ["a" * (61 * i % 400)] for i in range(40)}
    theirs = {key: ["b" * (400 - 53 * int(key[1:]) % 400)] * 2 for key in sorted(ours, reverse=reverse)}

    def report(name):
        made = [
            steps.table(tmp_path / f"{name}-{side}", "candidates", steps.candidates(texts)) for side, texts in enumerate((ours, theirs))
        ]
        settings = {"judge": {"kind": "length"}}
        told = steps.build(tmp_path / name, "evaluate", settings, {"candidates": made[0], "against": made[1]})
        return made, told.manifest.facts, rows.read(told.path / "judged").to_pylist()

    _, facts, judged = report("whole")
    monkeypatch.setattr(rows, "GROUP_BYTES", 1500)
    made, uneven, again = report("uneven")
    groups = [[each.num_rows for each in rows.stream(side.path)] for side in made]
    assert groups[0] != groups[1] and len(groups[0]) > 5
    assert (uneven, again) == (facts, judged)
    assert {row["id"]: [each["text"] for each in row["responses"]] for row in again} == {key: ours[key] + theirs[key] for key in ours}
