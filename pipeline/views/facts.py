"""Which of an artifact's facts are shown where: one line for a step, one row for a round, all of them on request.

Knows the kinds of artifacts (candidates, pairs, policy, report ...), and no stage: a fact that a plugin adds shows
up in full listings, and in the lines too where the kind has no favourites.
"""

from collections.abc import Iterator
from typing import Any, cast

from pipeline import artifact
from pipeline.artifact import Artifact, CorruptArtifact
from pipeline.measured import numbers
from pipeline.model import POLICY
from pipeline.plan import Step
from pipeline.request import Asked
from pipeline.views import screen

# For each kind: the facts of a step's line (where they exist), in order, with the word that follows the number.
LINES: dict[str, tuple[tuple[str, str], ...]] = {
    "prompts": (("duplicates", "duplicates"), ("too_long", "too long"), ("part", "= part"), ("parts", "= of parts")),
    "candidates": (("responses", "samples"), ("mean_length", "tokens each"), ("truncated", "truncated"), ("empty", "empty")),
    "judged": (("mean_score", "= mean score"), ("ties", "ties"), ("undecided", "undecided")),
    "pairs": (("rows", "pairs"), ("groups", "groups"), ("mean_chosen_win_rate", "= chosen win rate")),
    "logprobs": (("mean_token_logprob", "= mean token logprob"),),
    POLICY: (("loss_first", "= first loss"), ("loss_last", "= last loss"), ("steps", "steps"), ("parameters", "parameters")),
    "report": (
        ("accuracy", "= accuracy"),
        ("win_rate", "= win rate"),
        ("mean_score", "= score"),
        ("mean_characters", "= characters"),
        ("mean_score_gap", "= score gap"),
        ("ranking_accuracy", "= ranking accuracy"),
        ("representation_cosine", "= representation cosine"),
    ),
}
# The columns of the table over rounds: heading, kind, fact.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("samples", "candidates", "responses"),
    ("length", "candidates", "mean_length"),
    ("score", "judged", "mean_score"),
    ("pairs", "pairs", "rows"),
    ("loss", POLICY, "loss_last"),
)
RATES = ("accuracy", "win_rate")
"""Facts that are shares of one, shown as percentages."""


def entry(step: Step, made: Artifact | None) -> dict[str, Any]:
    """A step and what it left, as plain data; `facts` is None while it is missing or unreadable."""
    provenance = made.manifest.provenance if made else {}
    return {
        "address": step.address,
        "round": step.round,
        "node": step.node,
        "stage": step.stage,
        "makes": step.makes,
        "done": made is not None,
        "facts": made.manifest.facts if made else None,
        "seconds": provenance.get("seconds"),
        "digest": made.manifest.digest if made else None,
    }


def entries(steps: list[Step], asked: Asked) -> list[dict[str, Any]]:
    """Every step with what is there of it. What is damaged counts as absent here: `status` says so."""
    found: list[dict[str, Any]] = []
    for step in steps:
        try:
            made = artifact.read(step.folder(asked.folder))
        except CorruptArtifact:
            made = None
        found.append(entry(step, made))
    return found


def line(makes: str, facts: dict[str, Any]) -> str:
    """The facts of a step that fit a line."""
    parts: list[str] = []
    for name, word in LINES.get(makes, ()):
        value = facts.get(name)
        if value is None or (value == 0 and not word.startswith("=")):
            continue
        if name == "parts":
            parts[-1] += f" of {value}"
        elif word.startswith("="):
            parts.append(f"{word[2:]} {rate(name, value)}" + interval(name, facts))
        else:
            parts.append(f"{screen.number(value)} {word}")
    if makes not in LINES:
        parts = [f"{screen.number(value)} {name}" for name, value in numbers(facts) if name != "rows"][:4]
    if alarms := facts.get("alarms"):
        parts.append(f"{len(alarms)} alarm{'s' * (len(alarms) > 1)}")
    return ", ".join(parts)


def rate(name: str, value: Any, digits: int = 4) -> str:
    """A share as a percentage, any other value as a number."""
    return f"{value:.1%}" if name.endswith(RATES) and isinstance(value, int | float) else screen.number(value, digits)


def interval(name: str, facts: dict[str, Any]) -> str:
    """` [55, 67]` in points of a hundred, where a share comes with a confidence interval."""
    low, high = facts.get(f"{name}_low"), facts.get(f"{name}_high")
    return "" if low is None or high is None else f" [{low * 100:.0f}, {high * 100:.0f}]"


def leaves(facts: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested facts, by its dotted name."""
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            yield from leaves(cast(dict[str, Any], value), f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def metrics(steps: list[dict[str, Any]]) -> dict[str, str]:
    """The row of one round: heading -> what stands under it. The first node of each kind speaks for the round."""
    row: dict[str, str] = {}
    done = [each for each in steps if each["facts"] is not None]
    for title, makes, fact in COLUMNS:
        # Several trainings in a round (draft and final): the last one made the round's policy.
        order = reversed(done) if makes == POLICY else done
        found = next((each["facts"][fact] for each in order if each["makes"] == makes and each["facts"].get(fact) is not None), None)
        if found is not None and title not in row:
            row[title] = screen.number(found, 3)
    told = (("accuracy", "accuracy"), ("win_rate", "win rate"), ("mean_characters", "characters"))
    reports = [each for each in done if each["makes"] == "report" and any(each["facts"].get(name) is not None for name, _ in told)]
    for each in reports:
        prefix = f"{each['node']}." if len(reports) > 1 else ""
        for name, word in told:
            if each["facts"].get(name) is not None:
                row[prefix + word] = rate(name, each["facts"][name], 3) + interval(name, each["facts"])
    return row
