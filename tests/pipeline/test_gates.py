"""Quality gates: a step that failed one goes on with what it had once the gate is widened; and no gate bears identity."""

import json

import pytest

from pipeline import artifact, plugin, recipe, run
from pipeline.errors import Refusal
from pipeline.plan import plan
from pipeline.request import Asked
from pipeline.views import diff, reference, screen, show
from tests.support.core import profile

JUDGE = "tests.support.plugins.counts"


def _recipe(tmp_path, **gates):
    """Ten groups of three; `gates` are `node__field=value`."""
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(10)))
    body = {
        "name": "gated",
        "rounds": 1,
        "start": {
            "prompts": {"stage": "prompts", "source": {"kind": "jsonl", "path": str(source)}},
            "model": {"stage": "adopt", "endpoint": "m"},
        },
        "round": {
            "candidates": {"stage": "ask", "model": "model", "prompts": "prompts"},
            "more": {"stage": "ask", "model": "model", "prompts": "prompts", "max_new_tokens": 7},
            "most": {"stage": "ask", "model": "model", "prompts": "prompts", "max_new_tokens": 8},
            "judged": {
                "stage": "judge", "candidates": ["candidates", "more", "most"], "judge": {"kind": JUDGE, "book": str(tmp_path / "book")},
            },
            "pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "best_vs_worst", "identical": "keep"}},
        },
    }  # fmt: skip
    for path, value in gates.items():
        node, name = path.split("__")
        body["round"][node][name] = value
    return recipe.make(body, "test")


def _run(tmp_path, **gates):
    machine = profile(answers=str(tmp_path / "answers"))
    return run.run(_recipe(tmp_path, **gates), machine, tmp_path / "run")


def _judged(tmp_path) -> list[str]:
    return (tmp_path / "book").read_text().split()


NO = {"judged__position_rate": None, "judged__max_undecided": 0.2}


@pytest.mark.parametrize(
    "tight, wide, sentence",
    [
        ({"judged__max_undecided": 0.05}, {}, "left 3 of 30 responses undecided"),
        ({"judged__position_rate": (0.4, 0.6)}, {}, "has position_rate 0.900 over 30 observations, outside 0.4 to 0.6"),
        ({"judged__position_rate": (0.4, 0.6)}, {"judged__position_rate": (0.4, 0.9)}, "has position_rate 0.900"),
        ({"judged__position_rate": (0.4, 0.6)}, {"judged__position_rate": (0.4, 0.6), "judged__min_observations": 31}, "0.900"),
        ({"judged__limits": {".good": (0.3, None)}}, {"judged__limits": {".good": (0.2, None)}}, "has good 0.200"),
    ],
)
def test_a_widened_limit_judges_nothing_again(tight, wide, sentence, tmp_path):
    with pytest.raises(Refusal, match=sentence):
        _run(tmp_path, **NO | tight)
    assert len(_judged(tmp_path)) == 10 and artifact.read(tmp_path / "run/round-01/judged") is None
    assert _run(tmp_path, **NO | wide) == ["round-01/judged", "round-01/pairs"]
    assert len(_judged(tmp_path)) == 10, "what was judged stays judged"
    made = artifact.read(tmp_path / "run/round-01/judged", verify=True)
    assert made is not None and made.manifest.facts["rows"] == 10
    assert _run(tmp_path, **NO | tight) == [], "what is finished is not held to a gate that was moved since"


def test_a_gate_of_pairing(tmp_path):
    with pytest.raises(Refusal, match="at least 99 are needed"):
        _run(tmp_path, **NO, pairs__min_pairs=99)
    assert _run(tmp_path, **NO, pairs__min_pairs=2) == ["round-01/pairs"] and len(_judged(tmp_path)) == 10


def test_gates_are_in_no_identity_and_are_shown(tmp_path, capsys):
    strict, loose = (_recipe(tmp_path, **NO, judged__limits={".good": (low, None)}, pairs__min_pairs=2) for low in (0.2, 0.1))
    one, other = ({step.address: step for step in plan(each, profile())} for each in (strict, loose))
    assert {address: step.key for address, step in one.items()} == {address: step.key for address, step in other.items()}
    judged = one["round-01/judged"]
    assert judged.identity["settings"].keys() == {"judge"}
    held = {"max_undecided": 0.2, "position_rate": None, "limits": {".good": [0.2, None]}}
    assert plugin.gates(judged.config) == held
    run.run(strict, profile(answers=str(tmp_path / "answers")), tmp_path / "run")
    made = artifact.read(tmp_path / "run/round-01/judged")
    assert made is not None and made.manifest.provenance["gates"] == held
    asked = Asked(*run.recorded(tmp_path / "run"), tmp_path / "run", "")
    screen.show(show.render(show.collect(asked, "round-01/judged"), asked))
    shown = capsys.readouterr().out
    assert "max_undecided" in shown and shown.count("\ngates") == 1
    sides = [Asked(each, profile(), tmp_path / "run", "") for each in (strict, loose)]
    assert diff.collect(*sides, "round-01", "round-01")["settings"] == ["judged.limits..good: (0.2, None) -> (0.1, None)"]
    assert "| `max_undecided` | number, at least 0, at most 1, gate |" in reference.reference_markdown()
