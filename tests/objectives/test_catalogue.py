"""The page about objectives: its table is up to date, and its example works as it stands."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks import catalogue
from pipeline import plugin
from stages import train
from tests.support.models import tiny_llama
from tests.support.training_jobs import first_step, pairs_job

PAGE = Path(__file__).parents[2] / catalogue.PAGE


def test_the_table_of_objectives_is_up_to_date() -> None:
    text = PAGE.read_text()
    assert catalogue.page(text) == text, "run: python -m benchmarks.catalogue"
    for kind in plugin.names("objectives"):
        assert f"| `{kind}` |" in text


def test_an_objective_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's example, put somewhere else than in this project, is planned and trains."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "clipped.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    body = {"model": "policy@prev", "rows": "pairs", "objective": {"kind": "mylab.clipped", "bound": 1.0}}
    with pytest.raises(ValueError, match="objective 'mylab.clipped' needs the reference's log-probabilities"):
        train.Config.model_validate(body)
    train.Config.model_validate({**body, "reference": "reference"})
    model = tiny_llama(tmp_path / "model")
    clipped, plain = (
        first_step(pairs_job(tmp_path / name, model, {"kind": kind, **more}), 10_000)[1]
        for name, kind, more in (("clipped", "mylab.clipped", {"bound": 1e9}), ("plain", "dpo", {}))
    )
    assert clipped["loss"] == pytest.approx(plain["loss"]) and clipped["margin"] == pytest.approx(plain["margin"])
    (tmp_path / "mylab" / "forgetful.py").write_text(example.replace('"pairs", "reference"', '"pairs"'))
    with pytest.raises(AssertionError, match="declared that it needs a reference"):  # it is given none, and no zeros for one
        first_step(pairs_job(tmp_path / "forgetful", model, "mylab.forgetful"), 10_000)
    (tmp_path / "mylab" / "slip.py").write_text(example.replace('"reference"', '"refrence"'))
    with pytest.raises(ValueError, match="objective 'mylab.slip' declares that it needs 'refrence'; known needs: pairs, groups"):
        train.Config.model_validate({**body, "objective": "mylab.slip"})
    for name in [name for name in sys.modules if name.startswith("mylab")]:
        del sys.modules[name]


def test_lines_are_counted_without_words() -> None:
    source = '"""Said\nover two lines."""\n\n# why\nX: Any = 1\n"""About X."""\n\ndef f() -> int:\n    """Said."""\n    return X  # why\n'
    assert catalogue.code_lines(source) == 3
