"""How the rows of public and private datasets are laid out, and how to tell which one a row has.

Verified: `preference` against TRL's own `extract_prompt`; the columns of openbmb/UltraFeedback, nvidia/HelpSteer2 and HelpSteer3,
and what the sign of a preference means, against the datasets' pages and code that reads them. From memory alone:
HuggingFaceH4/ultrafeedback_binarized and Anthropic/hh-rlhf. No dataset was downloaded.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pipeline import rows
from pipeline.errors import Refusal
from stages.take import own

SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating"),
          ("chosen_rating", "rejected_rating"))  # fmt: skip
"""What datasets of pairs call the scores of both sides; the first of these that a row has is read."""
Name = Literal[
    "auto", "rematch", "preference", "ultrafeedback-binarized", "hh-rlhf", "helpsteer2-preference", "helpsteer3", "ultrafeedback",
    "helpsteer", "group",
]  # fmt: skip
RATINGS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


@dataclass(frozen=True)
class Shape:
    """One layout of rows."""

    name: str
    gives: Literal["pairs", "groups", "rematch"]
    columns: tuple[str, ...]
    """What every row must have."""
    marks: tuple[str, ...] = ()
    """What a row has besides, if `auto` is to take it for this shape."""
    optional: tuple[str, ...] = ()


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("rematch", "rematch", ()),
        Shape("preference", "pairs", ("chosen", "rejected"), (), ("id", "prompt", *(name for both in SCORES for name in both))),
        Shape(
            "ultrafeedback-binarized", "pairs", ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"), ("messages",), ("id",)
        ),
        Shape("hh-rlhf", "pairs", ("chosen", "rejected"), (), ("id",)),
        Shape("helpsteer2-preference", "pairs", ("prompt", "response_1", "response_2", "preference_strength"), (), ("id",)),
        Shape("helpsteer3", "pairs", ("context", "response1", "response2", "overall_preference"), (), ("id",)),
        Shape("ultrafeedback", "groups", ("instruction", "completions"), (), ("id",)),
        Shape("helpsteer", "groups", ("prompt", "response"), RATINGS),
        Shape("group", "groups", ("prompt", "responses", "scores"), (), ("id",)),
    )
}


def fits(name: str, table: str, score: object, keep: tuple[str, ...]) -> str | None:
    """Why rows of this shape cannot become the table with these settings; None if they can."""
    gives = SHAPES[name].gives
    if gives == "groups" and table == "pairs":
        return (
            f"shape '{name}' gives judged groups and no pairs; write `table: judged`, and add a node "
            "{stage: pair, judged: ..., rule: {kind: best_vs_worst}}"
        )
    if gives == "pairs" and table != "pairs":
        return f"shape '{name}' gives pairs and not {table}; write `table: pairs`"
    if score is not None and name not in ("ultrafeedback", "helpsteer"):
        return f"score: shape '{name}' has scores of its own and no ratings to choose from; leave the field out"
    if keep and gives != "groups":
        return f"keep: {', '.join(keep)} would have no place, since shape '{name}' makes rows without further `meta`; leave the field out"
    return None


def shape_of(asked: str, row: dict[str, Any], where: str) -> Shape:
    """The shape that is asked for or, for `auto`, that the columns of a row have. Raises Refusal if it is none, or more than one."""
    if asked != "auto":
        return SHAPES[asked]
    if own.holds(row):
        return SHAPES["rematch"]
    transcript = "prompt" not in row and isinstance(row.get("chosen"), str) and row["chosen"].lstrip().startswith("Human:")
    wanted = {name: {*shape.columns, *shape.marks} for name, shape in SHAPES.items() if shape.columns}
    found = [name for name, columns in wanted.items() if columns <= row.keys() and name != ("preference" if transcript else "hh-rlhf")]
    # What has all columns of another shape and more is the one with more.
    found = [name for name in found if not any(wanted[name] < wanted[other] for other in found)]
    if len(found) == 1:
        return SHAPES[found[0]]
    columns = ", ".join(row)
    if found:
        raise Refusal(f"{where}: its columns ({columns}) are those of {' and of '.join(found)}; say which with `shape`")
    needs = "; ".join(f"'{name}' has {', '.join((*SHAPES[name].columns, *SHAPES[name].marks))}" for name in wanted)
    raise Refusal(f"{where}: its columns ({columns}) are of no known shape: {needs}; name `shape`, and its columns with `columns`")


def names_of(shape: Shape, table: str) -> list[str]:
    """Every column that a shape reads."""
    return list(rows.TABLES[table].names) if shape.name == "rematch" else [*shape.columns, *shape.optional]
