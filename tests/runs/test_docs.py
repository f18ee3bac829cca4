"""What the docs tell people to type can be typed, and what they tell them to write works."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from engines import Request
from judges import Group
from pipeline import cli, plugin, recipe, rows, run
from pipeline.measured import Row
from tests.support.core import profile
from tests.support.groups import judged
from tests.support.steps import tools

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = re.findall(r"^`(rematch [^`]+)`$", (DOCS / "questions.md").read_text(), re.M)
EXAMPLES = re.findall(r"^## (\w+).*?```python\n(.*?)```", (DOCS / "plugins.md").read_text(), re.M | re.S)


def test_there_is_a_command_for_each_question():
    questions = re.findall(r"^\*\*", (DOCS / "questions.md").read_text(), re.M)
    assert len(COMMANDS) == len(questions) > 20


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_questions_can_be_typed(line, monkeypatch):
    """Its words and options exist; plans of shipped recipes are made."""
    words = shlex.split(line)[1:]
    if words[0] == "plan" and words[1] != "mine.yaml":
        assert cli.call([*words, "--runs", "/nonexistent"] if "--runs" not in words else words) == 0
        return
    from typer.main import get_command

    command = get_command(cli.app).commands[words[0]]
    command.make_context(words[0], words[1:])  # raises for a word or an option that is not there


@pytest.mark.parametrize("room, code", EXAMPLES, ids=[room for room, _ in EXAMPLES])
def test_a_plugin_of_the_docs_loads(room, code, tmp_path, monkeypatch):
    folder = {"executor": "pipeline.executors"}.get(room, f"{room}s")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "lab", raising=False)
    (tmp_path / "lab").mkdir()
    (tmp_path / f"lab/mine_{room}.py").write_text(code)
    module = plugin.load(folder, f"lab.mine_{room}")
    config = module.Config()
    if room == "judge":
        verdicts = module.judge(config, [Group("g", (), ("aab", "b", ""), {})], tools(tmp_path / "x"))
        assert verdicts[0].scores == (2 / 3, 0.0, None)
    elif room == "rule":
        picks, reason = module.choose(config, judged(["a", "b"], ["stop"] * 2, ["x"] * 2, [1.0, 0.0]), 0)
        assert [(pick.chosen, pick.rejected) for pick in picks] == [(0, 1)] and reason is None
    elif room == "source":
        assert [record.prompt[0]["content"] for record in module.read(config)][:2] == ["Count to 1.", "Count to 2."]
    elif room == "objective":
        torch = pytest.importorskip("torch")
        from objectives import Batch

        logps_NT = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
        mask_NT = torch.tensor([[True, True], [True, False]])
        batch = Batch(logps_NT, mask_NT, pair_w_P=torch.tensor([0]), pair_l_P=torch.tensor([1]), pair_weight_P=torch.ones(1))
        assert module.loss(config, batch).per_unit.tolist() == [pytest.approx(1.0)]
    elif room == "stage":
        words = {"stage": "tests.support.plugins.words", "take": 5}
        body = {"name": "mine", "rounds": 0, "start": {"words": words, "short": {"stage": "lab.mine_stage", "prompts": "words"}}}
        run.run(recipe.make(body, "mine"), profile(), tmp_path / "run")
        assert rows.count(tmp_path / "run/start/short") == 5
    elif room == "engine":
        with module.open(config, None, seed=0) as engine:
            assert engine.complete([Request(({"role": "user", "content": "?"},), n=2)])[0].responses[1].text == "yes"
    elif room == "trainer":
        assert module.placement(config).workers == 1 and module.IN_PROCESS
    elif room == "reporter":
        module.check(config)
        module.report(module.Config(file=str(tmp_path / "told")), "mine", [Row(1, "report", "accuracy", 0.5)])
        assert (tmp_path / "told").read_text() == "mine round 1: 1 numbers\n"
    else:
        assert room == "executor"
        body = {"name": "mine", "rounds": 0, "start": {"words": {"stage": "tests.support.plugins.words", "take": 5}}}
        run.run(recipe.make(body, "mine"), profile(executor="lab.mine_executor"), tmp_path / "run")
        assert rows.count(tmp_path / "run/start/words") == 5
