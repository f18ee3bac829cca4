"""What is shown: text that cannot act, tables that fit, numbers that add up, schemas and pages that keep up with the code."""

import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from pipeline import plugin, rows
from pipeline.recipe import find, shipped
from pipeline.run import difference
from pipeline.views import diff, facts, rounds, sample, screen
from pipeline.views.schema import profile_schema, recipe_schema, reference_markdown

ROOT = Path(__file__).parents[2]


def text(part, width=80, terminal=False) -> str:
    console = Console(width=width, force_terminal=terminal, highlight=False, emoji=False, markup=False, color_system=None)
    with console.capture() as captured:
        console.print(part)
    return captured.get()


# Model text is shown, never obeyed.


@pytest.mark.parametrize(
    "raw, shown",
    [
        ("plain, with ünï and 漢字", "plain, with ünï and 漢字"),
        ("two\nlines\n", "two\nlines\n"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\x07\x00", "a\\rb\\x07\\x00"),
        ("left\u202eright\u200b\u2028", "left\\u202eright\\u200b\\u2028"),
        ("\x9b31m", "\\x9b31m"),
        ("\ud800", "\\ud800"),
        ("tab\there", "tab\\there"),
    ],
)
def test_control_characters_are_written_out(raw, shown):
    assert screen.safe(raw) == shown


def test_nothing_in_a_row_reaches_the_terminal_as_control_or_markup():
    nasty = "\x1b[31m[bold]not bold[/bold] :smile: [link=x]y[/]\r"
    row = {
        "id": "p\x1b1",
        "prompt": [{"role": "sys\x1btem", "content": nasty}, {"role": "user", "content": nasty}],
        "meta": json.dumps({"answer": nasty}),
        "responses": [{"text": nasty, "finish_reason": "st\x1bop", "logprob": None, "source": None, "token_ids": None}] * 2,
        "scores": [1.0, None],
        "wins": None,
        "chosen": [{"role": "assistant", "content": nasty}],
        "rejected": [{"role": "assistant", "content": nasty}],
    }
    for table in ("prompts", "candidates", "judged", "pairs"):
        out = text(sample.render(table, [row]), terminal=True)
        assert "\x1b" not in out and "\r" not in out, table
        assert "[bold]not bold[/bold] :smile: [link=x]y[/]" in " ".join(out.split()) or table == "pairs"


# Numbers.


def test_numbers_and_durations_for_people():
    assert [screen.number(each) for each in (1234567, 0.123456, 12345.6, None, True, "text", float("nan"))] == [
        "1,234,567", "0.1235", "12,346", "", "True", "text", "nan",
    ]  # fmt: skip
    assert [screen.seconds(each) for each in (0.04, 59.94, 61, 3600 * 2 + 61)] == ["0.0 s", "59.9 s", "1 min 01 s", "2 h 01 min"]
    assert [screen.size(each) for each in (10, 2048, 5 * 1024**3)] == ["10 B", "2.0 KiB", "5.0 GiB"]


def test_facts_of_a_line_and_of_a_kind_that_nobody_knows():
    assert facts.line("candidates", {"rows": 2, "responses": 10, "mean_length": 3.21, "truncated": 0}) == "10 samples, 3.21 tokens each"
    assert facts.line("report", {"accuracy": 0.25, "accuracy_low": 0.2, "accuracy_high": 0.31}) == "accuracy 25.0% [20, 31]"
    assert facts.line("verdicts", {"rows": 2, "nested": {"a": 1}, "b": 2.5, "c": "x"}) == "1 nested.a, 2.5 b"
    assert facts.line("report", {}) == ""


def entries(round: int) -> list[dict]:
    made = {
        "candidates": {"responses": 100 * round, "mean_length": 12.3},
        "judged": {"mean_score": 0.5},
        "pairs": {"rows": 18},
        "policy": {"loss_first": 2.0, "loss_last": 0.6931},
        "report": {
            "accuracy": 0.5,
            "accuracy_low": 0.4,
            "accuracy_high": 0.6,
            "win_rate": 0.61,
            "win_rate_low": 0.55,
            "win_rate_high": 0.67,
        },
    }
    return [
        {"address": f"round-{round:02d}/{kind}", "node": kind, "stage": kind, "makes": kind, "done": True, "facts": told, "seconds": 61.0}
        for kind, told in made.items()
    ]


def overview(count: int) -> list[dict]:
    return [{"name": f"round-{n:02d}", "steps": entries(n), "metrics": facts.metrics(entries(n))} for n in range(1, count + 1)]


def test_the_row_of_a_round():
    assert facts.metrics(entries(2)) == {
        "samples": "200", "length": "12.3", "score": "0.5", "pairs": "18", "loss": "0.693",
        "accuracy": "50.0% [40, 60]", "win rate": "61.0% [55, 67]",
    }  # fmt: skip


def test_what_is_missing_leaves_no_column_and_two_reports_have_names():
    steps = [{**each, "facts": None if each["makes"] == "judged" else each["facts"]} for each in entries(1)]
    steps.append({**steps[-1], "node": "second"})
    row = facts.metrics(steps)
    assert "score" not in row and {"report.accuracy", "second.accuracy"} <= row.keys()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_table_over_rounds_fits_and_keeps_what_matters(width):
    lines = text(rounds.summary(overview(3), width), width).splitlines()
    assert len(lines) == 5 and all(len(line.rstrip()) <= width for line in lines)
    assert "win rate" in lines[0] and "accuracy" in lines[0] and "61.0% [55, 67]" in lines[2]
    assert ("length" in lines[0]) == (width >= 100)


# Differences.


def test_pairs_are_compared_by_prompt(tmp_path):
    def table(name, rows_):
        folder = tmp_path / name
        folder.mkdir()
        made = [
            {
                "id": f"{prompt}.{chosen}",
                "prompt_id": prompt,
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
            for prompt, chosen, rejected in rows_
        ]
        rows.write(folder, "pairs", [rows.from_pylist("pairs", made)])
        return folder

    left = table(
        "left", [("same", "a", "b"), ("flip", "a", "b"), ("gone", "a", "b"), ("other", "a", "b"), ("two", "a", "b"), ("two", "a", "c")]
    )
    right = table(
        "right", [("same", "a", "b"), ("flip", "b", "a"), ("new", "a", "b"), ("other", "a", "c"), ("two", "a", "c"), ("two", "a", "b")]
    )
    assert diff.pairs(left, right) == {"added": 1, "dropped": 1, "flipped": 1, "changed": 1, "same": 2}


def test_settings_differ_by_leaf():
    assert difference({"round": {"a": {"b": 1}}}, {"round": {"a": {"b": 2}}}) == ["round.a.b: 1 -> 2"]


# Schemas and the reference page.


def test_schemas_accept_what_is_shipped_and_name_what_is_wrong():
    jsonschema = pytest.importorskip("jsonschema")
    for name, schema in (("recipes", recipe_schema()), ("profiles", profile_schema())):
        jsonschema.Draft202012Validator.check_schema(schema)
        checker = jsonschema.Draft202012Validator(schema)
        for each in shipped(name):
            body = yaml.safe_load(find(each, name).read_text())
            assert [f"{each}: {error.json_path}: {error.message}" for error in checker.iter_errors(body)] == []
    recipe = yaml.safe_load(find("sppo", "recipes").read_text())
    checker = jsonschema.Draft202012Validator(recipe_schema())
    good = {**recipe["round"], "policy": {**recipe["round"]["policy"], "learning_rate": {"by_round": [1e-6, 5e-7]}}}
    assert checker.is_valid({**recipe, "round": good})
    for node, change in {
        "policy": {"learning_rat": 1.0},
        "pairs": {"rule": {"kind": "best_vs_worst", "tie": "perhaps"}},
        "candidates": {"model": "policy@next"},
        "judged": {"judge": "nobody"},
        "report": {"stage": "evaluat"},
    }.items():
        bad = {**recipe["round"], node: {**recipe["round"][node], **change}}
        assert not checker.is_valid({**recipe, "round": bad}), f"{node} {change}"
    over = {
        "name": "mine",
        "extends": "sppo",
        "values": {"max_length": 9},
        "round": {"report": None, "policy": {"max_length": "$max_length"}},
    }
    assert checker.is_valid(over) and not checker.is_valid({**over, "extends": ["sppo"]})
    assert not checker.is_valid({name: value for name, value in over.items() if name != "extends"}), "a patch of nothing"
    assert not checker.is_valid({**recipe, "start": {**recipe["start"], "policy": {"stage": "adopt", "model": {"by_round": ["a"]}}}})


def test_schemas_know_every_plugin():
    both = json.dumps([recipe_schema(), profile_schema()])
    for folder in plugin.FOLDERS:
        for kind in plugin.names(folder):
            assert f'"const": "{kind}"' in both, f"{folder}/{kind}"
    # Every reference inside leads somewhere.
    for schema in (recipe_schema(), profile_schema()):
        named = set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(schema)))
        assert named <= schema["$defs"].keys()


def test_the_reference_page_lists_every_setting():
    page = reference_markdown()
    for folder in plugin.FOLDERS:
        for kind in plugin.names(folder):
            assert f"### {kind}\n" in page
            for field in plugin.fields(plugin.load(folder, kind).Config):
                assert f"| `{field}` |" in page, f"{folder}/{kind}.{field}"
    assert page == reference_markdown() and "\n\n\n" not in page


def test_the_reference_page_in_docs_is_up_to_date():
    page = ROOT / "docs" / "recipe-reference.md"
    assert page.read_text() == reference_markdown(), "run: rematch schema --markdown > docs/recipe-reference.md"
