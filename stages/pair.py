"""Makes training pairs of judged groups by a rule; groups that give none are counted by reason.

Win rates and labels come from the judge's win table (SPPO, arXiv:2405.00675, section 4): `chosen_win_rate` is
the mean of the chosen response's row (or what the rule says instead), `label` is P(chosen beats rejected). A judge
without a table leaves them null.
"""

from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

import rules
from judges import Group
from metrics import ngrams
from metrics.win_rates import win_rates
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.plugin import Choice, Gate, Picks, Reads, Settings
from pipeline.ragged import pc
from pipeline.rows import MESSAGES
from pipeline.tools import Tools
from rules import Pick
from stages import _columns, _join
from stages._verdicts import ratio

VERSION = 1
MAKES = "pairs"


class Config(Settings):
    judged: Annotated[tuple[str, ...], Reads("judged")]
    """What to pair; of several tables, the responses to the same prompt are one group, and there is no win table."""
    rule: Annotated[Choice, Picks("rules")]
    """Which responses of a group make a pair."""
    include_self: bool = True
    """Whether a response's own 0.5 counts in its win rate, as in SPPO's code; without it, rates reach 0 and 1."""
    labels: bool = True
    """Whether a pair is labelled with P(chosen beats rejected); without, objectives take it to be 1 (POWER-DL begins there)."""
    min_pairs: Annotated[int, Gate()] = Field(1, ge=1)
    """The step fails if fewer pairs than this are made. A gate: it may be moved without pairing again."""
    near_duplicate: float | None = Field(None, gt=0, le=1)
    """Pairs whose texts share at least this much of their 4-grams (Jaccard) are left out; 1: equal texts alone. None: nobody looks."""
    repetitive: float | None = Field(None, gt=0, le=1)
    """Pairs whose chosen response repeats at least this share of its 4-grams are left out. None: nobody looks."""
    max_chosen_characters: int | None = Field(None, ge=1)
    """Pairs with a longer chosen response are left out (arXiv:2407.19594: 2500, then 1000). None: any length."""
    max_length_ratio: float | None = Field(None, gt=0)
    """Pairs whose chosen response is more than so many times as long as the rejected one are left out. None: any ratio."""


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """At most one pair a group, if the rule makes one a group."""
    return {"rows": inputs.get("judged"), "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    parts = tools.map(partial(_shard, config), _join.joined("judged", "judged", tools), "pairs")
    sums = {name: sum(part[name] for part in parts) for name in _SUMS}
    reasons, filtered = _added(part["dropped"] for part in parts), _added(part["filtered"] for part in parts)
    made = sums["rows"]
    if made < config.min_pairs:
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "no group was judged"
        raise Refusal(
            f"{tools.address}: rule '{config.rule.kind}' made {made} pairs of {sums['groups']} groups, at least {config.min_pairs} are "
            f"needed ({why}); loosen the rule's filters, or look at the judge and the candidates"
        )
    facts: Facts = {"rows": made, "groups": sums["groups"], "paired": sums["paired"], "dropped": reasons}
    if filtered:
        facts["filtered"] = filtered
    for name in _MEANS:
        known = sums[_KNOWN[name]] if name in _KNOWN else sums["tokenised"] if name.endswith("_tokens") else made
        facts[f"mean_{name}"] = ratio(sums[name], known)
    return facts


def _added(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in parts:
        for reason, count in part.items():
            counts[reason] = counts.get(reason, 0) + count
    return dict(sorted(counts.items()))


_MEANS = (
    "chosen_characters", "rejected_characters", "chosen_tokens", "rejected_tokens", "score_gap",
    "chosen_win_rate", "rejected_win_rate", "label",
)  # fmt: skip
_KNOWN = {"chosen_win_rate": "rated", "rejected_win_rate": "rated", "label": "labelled"}
_SUMS = ("rows", "groups", "paired", "rated", "labelled", "tokenised", *_MEANS)


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    responses, spans = _columns.flat(table, "responses"), _columns.spans(table, "responses")
    wins = _columns.wins(table)
    choose, rule = rules.of(config.rule).choose, config.rule.config
    rows: list[int] = []
    picks: list[Pick] = []
    dropped: dict[str, int] = {}
    filtered: dict[str, int] = {}
    filters = {name: value for name in _FILTERS if (value := getattr(config, name)) is not None}
    for row, group in enumerate(_columns.groups(table)):
        picked, reason = choose(rule, group, tools.seed)
        if filters:
            picked, reason = _filtered(picked, reason, group, filters, filtered)
        if picked:
            rows.extend([row] * len(picked))
            picks.extend(picked)
        else:
            dropped[reason or "unpaired"] = dropped.get(reason or "unpaired", 0) + 1
    rates = [_rates(wins[row], pick, config) for row, pick in zip(rows, picks, strict=True)]
    made = _pairs(table, responses, spans, rows, picks, rates, tools.round or 0)
    return made, {**_sums(made), "groups": table.num_rows, "paired": len(set(rows)), "dropped": dropped, "filtered": filtered}


_FILTERS = ("near_duplicate", "repetitive", "max_chosen_characters", "max_length_ratio")


def _filtered(
    picks: list[Pick], reason: str | None, group: Group, filters: dict[str, Any], counts: dict[str, int]
) -> tuple[list[Pick], str | None]:
    """The pairs that pass; those that do not are counted, and the first one's reason is the group's if none is left."""
    kept: list[Pick] = []
    for pick in picks:
        why = _reason(group.responses[pick.chosen], group.responses[pick.rejected], **filters)
        if why is None:
            kept.append(pick)
        else:
            counts[why] = counts.get(why, 0) + 1
            reason = reason or why
    return kept, reason


def _reason(
    chosen: str,
    rejected: str,
    *,
    near_duplicate: float | None = None,
    repetitive: float | None = None,
    max_chosen_characters: int | None = None,
    max_length_ratio: float | None = None,
) -> str | None:
    """Why a pair is left out: near_duplicate, repetitive (the chosen one), long_chosen or length_ratio; None if it is not."""
    if near_duplicate is not None and ngrams.similarity(chosen, rejected) >= near_duplicate:
        return "near_duplicate"
    if repetitive is not None and ngrams.repeated(chosen) >= repetitive:
        return "repetitive"
    if max_chosen_characters is not None and len(chosen) > max_chosen_characters:
        return "long_chosen"
    if max_length_ratio is not None and len(chosen) > max_length_ratio * len(rejected):
        return "length_ratio"
    return None


def _rates(wins: Any, pick: Pick, config: Config) -> tuple[float | None, float | None, float | None]:
    """Win rates of the chosen and the rejected response, and P(chosen beats rejected); None where nobody knows."""
    label = wins[pick.chosen][pick.rejected] if config.labels and wins is not None else None
    if pick.win_rates is not None:
        return *pick.win_rates, label
    if wins is None:
        return None, None, None
    rates = win_rates(wins, config.include_self)
    return rates[pick.chosen], rates[pick.rejected], label


def _pairs(
    table: pa.Table, responses: Any, spans: _columns.Spans, rows: list[int], picks: list[Pick], rates: list[Any], round: int
) -> pa.Table:
    """The pairs table: what was picked, taken out of the Arrow columns as it is."""
    at = pa.array(rows, pa.int64())
    ids = table["id"].take(at).to_pylist()
    scores = _columns.flat(table, "scores")
    made: dict[str, Any] = {
        "id": pa.array([f"{i}.{round:02d}.{p.chosen}-{p.rejected}" for i, p in zip(ids, picks, strict=True)], pa.string()),
        "prompt_id": pa.array(ids, pa.string()),
        **{name: table[name].take(at) for name in ("prompt", "prompt_token_ids", "tokenizer")},
        "label": pa.array([label for _, _, label in rates], pa.float64()),
        "weight": pa.array(np.ones(len(rows))),
        "source_round": pa.array(np.full(len(rows), round, np.int32)),
    }
    for side, name in enumerate(("chosen", "rejected")):
        items = pa.array([spans[row][0] + getattr(pick, name) for row, pick in zip(rows, picks, strict=True)], pa.int64())
        picked = responses.take(items)
        made[name] = pc.coalesce(pc.struct_field(picked, "messages"), _messages(pc.struct_field(picked, "text")))
        made[f"{name}_token_ids"] = pc.struct_field(picked, "token_ids")
        made[f"{name}_mask"] = pc.struct_field(picked, "mask")
        made[f"{name}_score"] = scores.take(items)
        made[f"{name}_win_rate"] = pa.array([rate[side] for rate in rates], pa.float64())
    return pa.table(made)


def _messages(texts: Any) -> pa.ListArray:
    """Each text as a conversation of one assistant message."""
    roles, calls = pa.array(["assistant"] * len(texts), pa.string()), pa.nulls(len(texts), pa.string())
    messages = pa.StructArray.from_arrays([roles, texts, calls], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1, dtype=np.int32)), messages)


def _sums(made: pa.Table) -> Facts:
    def added(values: Any) -> float:
        return pc.sum(values, min_count=0).as_py()

    rows = made.num_rows
    columns = {"rated": "chosen_win_rate", "labelled": "label", "tokenised": "chosen_token_ids"}
    sums: Facts = {"rows": rows, **{name: rows - made[column].null_count for name, column in columns.items()}}
    for name in ("chosen", "rejected"):
        picked = _columns.of_pairs(made, name)
        sums[f"{name}_characters"] = added(pc.utf8_length(pc.struct_field(picked, "text")))
        sums[f"{name}_tokens"] = added(pc.list_value_length(_columns.trained_ids(picked)))
        sums[f"{name}_win_rate"] = added(made[f"{name}_win_rate"])
    return {**sums, "score_gap": added(pc.subtract(made["chosen_score"], made["rejected_score"])), "label": added(made["label"])}
