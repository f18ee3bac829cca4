"""What tables alone say about a round: how far pairs are apart, how long and how varied samples are, what the judge prefers.

Counts and means run over all rows; comparisons word by word over the evenly spaced rows that `sample` picks. Tokens are those
that are trained on: what a mask leaves out is not the policy's.
"""

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metrics import diversity, gaps, judge_statistics
from pipeline import rows
from pipeline.artifact import Artifact, Facts
from pipeline.ragged import pc
from stages import _columns

GROUPS, RESPONSES, WORDS = 128, 8, 256
"""Self-BLEU looks at so many prompts, responses to each, and words of each."""
OBSERVED = 20
"""Rates of the judge of fewer observations than this are left out."""
KAPPA_ITEMS = 4096
"""Responses whose samples are compared, from the beginning."""


def sample(source: Artifact, table: str, limit: int, work: Path) -> Artifact:
    """At most `limit` rows, evenly spaced, as a table below `work`; always the same ones."""
    folder, part = work / f"{table}.rows", work / f"{table}.rows.part"
    if not folder.exists():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        total = rows.count(source.path)
        wanted = np.arange(total) if total <= limit else np.arange(limit) * total // limit
        at, picked = 0, []
        for portion in rows.stream(source.path):
            here = wanted[(wanted >= at) & (wanted < at + portion.num_rows)] - at
            picked.append(portion.select(rows.TABLES[table].names).take(pa.array(here, pa.int64())))
            at += portion.num_rows
        rows.write(part, table, picked)
        part.rename(folder)
    return Artifact(folder, source.manifest)


def pairs(source: Artifact, some: Artifact) -> Facts:
    """Facts of all pairs, and the mean text gap of `some` of them (in tokens; in words where a pair has no tokens)."""
    sides = ("chosen", "rejected")
    columns = [name for side in sides for name in (side, f"{side}_token_ids", f"{side}_mask", f"{side}_score")]
    table = rows.read(source.path, columns)
    both = [_columns.of_pairs(table, side) for side in sides]
    characters = [_floats(pc.utf8_length(pc.struct_field(each, "text"))) for each in both]
    tokens = [_floats(pc.list_value_length(_columns.trained_ids(each))) for each in both]
    longer = np.sign(characters[0] - characters[1])
    few = rows.read(some.path, columns)
    apart = [gaps.text_gap(*words) for words in zip(*(_words(_columns.of_pairs(few, side)) for side in sides), strict=True)]
    return {
        "pairs": table.num_rows,
        "mean_score_gap": gaps.score_gap(_floats(table["chosen_score"]), _floats(table["rejected_score"])),
        "mean_chosen_tokens": mean(tokens[0]),
        "mean_rejected_tokens": mean(tokens[1]),
        "chosen_longer": mean((longer[longer != 0] + 1) / 2),
        "text_gap": mean(np.asarray(apart)),
    }


def samples(source: Artifact, some: Artifact, vocabulary: int | None) -> Facts:
    """Lengths of all responses in tokens, and the diversity of `some` prompts' responses: in words, and in tokens of a `vocabulary`."""
    responses = _columns.flat(rows.read(source.path, ["responses"]), "responses")
    tokens = _floats(pc.list_value_length(_columns.trained_ids(responses)))
    tokens = tokens[~np.isnan(tokens)]
    ends = pc.struct_field(responses, "finish_reason").to_pylist()
    few = rows.read(some.path, ["responses"])
    flat = _columns.flat(few, "responses")
    texts = _columns.strings(flat, "text")
    groups = list(_columns.rows_of(texts, _columns.spans(few, "responses")))
    return {
        "sampled_responses": len(responses),
        "mean_tokens": mean(tokens),
        "median_tokens": float(np.median(tokens)) if len(tokens) else None,
        "truncated_share": ends.count("length") / len(ends) if ends else None,
        **{f"distinct_{n}": diversity.distinct_n(texts, n) for n in (1, 2, 3)},
        "unique_share": diversity.unique_share(groups),
        "self_bleu": _self_bleu(groups),
        **({} if vocabulary is None else {"expectation_adjusted_distinct": _adjusted(flat, vocabulary)}),
    }


def _self_bleu(groups: list[tuple[str, ...]]) -> float | None:
    """The mean over a few prompts, whose responses are looked at up to a length: BLEU is the one slow metric of words."""
    few = groups if len(groups) <= GROUPS else [groups[at] for at in np.arange(GROUPS) * len(groups) // GROUPS]
    cut = [[" ".join(text.split()[:WORDS]) for text in group[:RESPONSES]] for group in few]
    found = [score for group in cut if (score := diversity.self_bleu(group)) is not None]
    return sum(found) / len(found) if found else None


def _adjusted(responses: Any, vocabulary: int) -> float | None:
    ids = _columns.trained_ids(responses).flatten()
    return diversity.expectation_adjusted_distinct(len(pc.unique(ids)), len(ids), vocabulary)


def vocabulary(folder: Path) -> int | None:
    """The size of a model's vocabulary, by its configuration."""
    body = json.loads((folder / "config.json").read_text())
    size = body.get("vocab_size", (body.get("text_config") or {}).get("vocab_size"))
    return size if isinstance(size, int) else None


def judge(source: Artifact) -> Facts:
    """What the judge saw of itself, as the facts of its step have it; of the judges of an ensemble, the worst.

    Consistency is the share of pairs whose two orders name the same winner. Of few observations nothing is said.
    """
    held, counts = source.manifest.facts.get("judge") or {}, source.manifest.facts.get("observations") or {}

    def rates(name: str) -> list[float]:
        known = [each for each in held if each.rpartition(".")[2] == name and counts.get(each, 0) >= OBSERVED]
        return [held[each] for each in known if held[each] is not None]

    places, flips = rates("position_rate"), rates("order_flips")
    return {
        "position_rate": max(places, key=lambda rate: abs(rate - 0.5), default=None),
        "position_bias": max((abs(rate - 0.5) for rate in places), default=None),
        "position_consistency": 1 - max(flips) if flips else None,
        "judge_kappa": _kappa(source),
    }


def _kappa(source: Artifact) -> float | None:
    """Fleiss' kappa of the judge's samples, where its verdicts keep them and each response has as many; None elsewhere.

    A response is an item, a sample a rater, a score a category.
    """
    items: list[list[float]] = []
    for table in rows.stream(source.path, ["detail"]):
        for text in table["detail"].to_pylist():
            samples: Any = json.loads(text).get("samples") if text is not None and '"samples"' in text else None
            items += [each for each in samples if isinstance(each, list)] if isinstance(samples, list) else []
        if len(items) >= KAPPA_ITEMS:
            break
    raters = max(map(len, items), default=0)
    full = [each for each in items[:KAPPA_ITEMS] if len(each) == raters]
    if raters < 2 or len(full) < OBSERVED:
        return None
    scores = sorted({score for each in full for score in each})
    return judge_statistics.fleiss_kappa(np.asarray([[each.count(score) for score in scores] for each in full]))


def judged(source: Artifact) -> Facts:
    """What the verdicts say of the judge; None where nothing could be compared."""
    won = compared = circles = triples = groups = tied = level = several = 0.0
    deltas: list[tuple[float, int]] = []
    for table in rows.stream(source.path, ["responses", "scores", "wins"]):
        texts = _columns.rows_of(_columns.strings(_columns.flat(table, "responses"), "text"), _columns.spans(table, "responses"))
        for group, scores, wins in zip(texts, table["scores"].to_pylist(), _columns.wins(table), strict=True):
            lengths = [len(text) for text in group]
            known = [(score, length) for score, length in zip(scores, lengths, strict=True) if score is not None]
            groups += 1
            won, compared = (a + b for a, b in zip((won, compared), judge_statistics.longer_wins(scores, lengths), strict=True))
            circles, triples = (a + b for a, b in zip((circles, triples), judge_statistics.cycles(wins or ()), strict=True))
            several += len(known) > 1
            level += bool(judge_statistics.flat(scores))
            tied += len(known) > 1 and sum(score == max(known)[0] for score, _ in known) > 1
            deltas += [(a - b, i - j) for (a, i), (b, j) in combinations(known, 2)]
    left, right = np.asarray(deltas, float).reshape(-1, 2).T
    return {
        "groups": int(groups),
        "tie_share": tied / several if several else None,
        "zero_spread_share": level / several if several else None,
        "longer_wins": won / compared if compared else None,
        "length_spearman": judge_statistics.spearman(left, right),
        "cycle_rate": circles / triples if triples else None,
    }


def kept_share(pair_table: Artifact, judged_table: Artifact) -> float | None:
    """The share of judged prompts that gave at least one pair; None of no prompts."""
    asked = rows.read(judged_table.path, ["id"])["id"]
    paired = set(rows.read(pair_table.path, ["prompt_id"])["prompt_id"].to_pylist())
    return sum(each in paired for each in asked.to_pylist()) / len(asked) if len(asked) else None


def mean(values: np.ndarray) -> float | None:
    """The mean of what is known; None of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _floats(column: Any) -> np.ndarray:
    """A column as floats, NaN where it is null."""
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), float) if len(column) else np.zeros(0)


def _words(responses: Any) -> list[list[Any]]:
    texts, ids = _columns.strings(responses, "text"), _columns.trained_ids(responses).to_pylist()
    return [text.split() if some is None else some for text, some in zip(texts, ids, strict=True)]
