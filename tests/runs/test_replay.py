"""Replay: which earlier pairs come back, exactly how many, and that the same ones come back again."""

import pytest

from pipeline import rows
from pipeline.errors import Problems, Refusal
from tests.support.core import small, steps
from tests.support.steps import build, prompt, table


def _pairs(path, round, count):
    made = [
        {
            "id": f"p{i:05d}.{round:02d}.0-1", "prompt_id": f"p{i:05d}", "prompt": prompt("q"), "weight": 1.0, "source_round": round,
            "chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}],
        }
        for i in range(count)
    ]  # fmt: skip
    return table(path, "pairs", made)


def _mixed(tmp_path, tables, name="mixed", seed=7, **settings):
    made = build(tmp_path / name, "mix", settings, {"rows": tables}, seed=seed)
    return made.manifest, rows.read(made.path, ["id"])["id"].to_pylist()


DNO = {"fractions": [0.3, 1.0], "decay": 0.5}


def test_dnos_decay_is_exact(tmp_path):
    """30 % of the round before, 15 % of the one before that, halving further; at most, so rounded down."""
    tables = [_pairs(tmp_path / f"r{r}", r, count) for r, count in ((1, 999), (2, 1000), (3, 1001), (4, 400))]
    manifest, ids = _mixed(tmp_path, tables, **DNO)
    assert manifest.facts["from"] == [int(999 * 0.075), 150, 300, 400] == [74, 150, 300, 400]
    assert manifest.facts["rows"] == len(ids) == 924 and manifest.facts["read"] == 3400 == 924 + manifest.facts["not_drawn"]


@pytest.mark.parametrize("tables, expected", [(1, [10]), (2, [3, 10]), (3, [1, 3, 10]), (5, [0, 0, 1, 3, 10])])
def test_however_many_rounds_there_are(tmp_path, tables, expected):
    manifest, _ = _mixed(tmp_path, [_pairs(tmp_path / f"r{r}", r, 10) for r in range(tables)], **DNO)
    assert manifest.facts["from"] == expected


@pytest.mark.parametrize("fraction, count, kept", [(0.29, 100, 29), (0.3, 10, 3), (0.15, 7, 1), (0.0, 5, 0), (0.999, 10, 9)])
def test_shares_are_counted_and_not_thrown(tmp_path, fraction, count, kept):
    manifest, _ = _mixed(tmp_path, [_pairs(tmp_path / "r1", 1, count), _pairs(tmp_path / "r2", 2, 1)], fractions=[fraction, 1])
    assert manifest.facts["from"] == [kept, 1]


def test_the_draw_hangs_on_ids_and_seed_and_not_on_the_order_of_rows(tmp_path):
    forth = _pairs(tmp_path / "forth", 1, 500)
    back = table(tmp_path / "back", "pairs", rows.read(forth.path).take(list(range(499, -1, -1))))
    new = _pairs(tmp_path / "new", 2, 3)
    drawn = [_mixed(tmp_path, [each, new], name, **DNO) for each, name in ((forth, "a"), (forth, "b"), (back, "c"))]
    assert drawn[0][0].digest == drawn[1][0].digest and set(drawn[0][1]) == set(drawn[2][1])
    _, other = _mixed(tmp_path, [forth, new], "d", seed=8, **DNO)
    assert set(other) != set(drawn[0][1])
    places = [int(i[1:6]) for i in drawn[0][1][:-3]]
    assert places == sorted(places), "what is kept keeps its order"
    assert 30 < sum(place < 250 for place in places) < 120, "from all over the table"


def test_decay_without_shares_of_its_own(tmp_path):
    manifest, _ = _mixed(tmp_path, [_pairs(tmp_path / f"r{r}", r, 100) for r in range(4)], decay=0.5)
    assert manifest.facts["from"] == [12, 25, 50, 100]


def test_no_replay_at_all(tmp_path):
    manifest, _ = _mixed(tmp_path, [_pairs(tmp_path / f"r{r}", r, 9) for r in range(3)], fractions=[0, 1])
    assert manifest.facts["from"] == [0, 0, 9]


@pytest.mark.parametrize("settings, sentence", [({"decay": 2}, "decay: .*less than or equal to 1"), ({"fractions": [2]}, "at most 1")])
def test_shares_are_shares(settings, sentence):
    start = {"pairs": {"stage": "tests.support.plugins.words"}}
    with pytest.raises(Problems, match=sentence):
        steps(small(start=start, round={"mixed": {"stage": "mix", "rows": "pairs", **settings}}))


def test_of_nothing_nothing_comes(tmp_path):
    with pytest.raises(Refusal, match="no pair is left of 3 in 1 tables"):
        _mixed(tmp_path, [_pairs(tmp_path / "r1", 1, 3)], fractions=[0.3])
