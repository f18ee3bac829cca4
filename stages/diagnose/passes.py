"""What a diagnosis asks of models: one pass over pairs, one or two over samples. Per-token log-probabilities stay on disk.

Everything is kept for each response and reduced at the end, so that how the rows were split into shards shows nowhere.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metrics import divergence, gaps, ranking_accuracy
from pipeline import rows
from pipeline.artifact import Artifact, Facts
from pipeline.errors import Refusal
from pipeline.tools import Tools
from stages.diagnose.measures import mean

Sums = dict[str, np.ndarray]
"""By pair: summed log-probabilities in nats and tokens of `chosen` and `rejected`; keys "chosen", "chosen_tokens" and so on."""


def over_pairs(some: Artifact, limit: int | None, tools: Tools) -> Facts:
    """Run the model of slot `model` over pairs: its log-probabilities go to `pairs`, the representation gap into the facts."""
    parts = tools.map(partial(_pairs, limit), some, "logprobs", tools.out / "pairs")
    found = {name: np.asarray([value for part in parts for value in part[name]], float) for name in ("cosine", "distance")}
    return {"representation_cosine": mean(found["cosine"]), "representation_distance": mean(found["distance"])}


def over_samples(some: Artifact, limit: int | None, against: bool, tools: Tools) -> Facts:
    """Run `model`, and `against` if it is there, over samples: entropy and KL divergence in nats. Log-probabilities go to `samples`."""
    parts = tools.map(partial(_samples, limit, against), some, "logprobs", tools.out / "samples")
    tokens, entropy = (sum(value for part in parts for value in part[name]) for name in ("tokens", "entropy"))
    facts: Facts = {"entropy_per_token_nats": entropy / tokens if tokens else None}
    if against:
        k1, k3 = (sum(value for part in parts for value in part[name]) for name in ("k1", "k3"))
        responses = sum(len(part["k1"]) for part in parts)
        facts |= {
            "kl_k1_per_sequence_nats": k1 / responses if responses else None,
            "kl_k1_per_token_nats": k1 / tokens if tokens else None,
            "kl_k3_per_token_nats": k3 / tokens if tokens else None,
        }
    return facts


def _look(slot: str, table: pa.Table, kind: str, limit: int | None, tools: Tools) -> list[Any]:
    from models import score, states

    forward = tools.profile.forward
    model, tokenizer = tools.warm(score.opened, tools.model(slot), dtype=forward.dtype, device=forward.device)
    return states.look(model, tokenizer, table, kind, limit, forward.tokens_per_batch)


def _pairs(limit: int | None, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    seen = _look("model", table, "pairs", limit, tools)
    chosen_PH, rejected_PH = (np.stack([row[side].mean_H for row in seen]) for side in (0, 1))
    cosines = [None if np.isnan(each) else float(each) for each in gaps.cosines(chosen_PH, rejected_PH)]
    return _logprobs(table, seen), {"cosine": cosines, "distance": gaps.distances(chosen_PH, rejected_PH).astype(float).tolist()}


def _samples(limit: int | None, against: bool, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    seen = _look("model", table, "candidates", limit, tools)
    facts: Facts = {
        "tokens": [len(each.logps_R) for row in seen for each in row],
        "entropy": [float(each.entropies_R.sum(dtype=np.float64)) for row in seen for each in row],
    }
    if against:
        theirs = _look("against", table, "candidates", limit, tools)
        both = [
            (mine.logps_R, other.logps_R) for row, others in zip(seen, theirs, strict=True) for mine, other in zip(row, others, strict=True)
        ]
        if any(len(mine) != len(other) for mine, other in both):
            raise Refusal(f"{tools.address}: `model` and `against` cut samples into different tokens; compare models with one tokenizer")
        facts["k1"] = [len(mine) * (divergence.kl_k1_per_token(mine, other) or 0.0) for mine, other in both]
        facts["k3"] = [len(mine) * (divergence.kl_k3_per_token(mine, other) or 0.0) for mine, other in both]
    return _logprobs(table, seen), facts


def _logprobs(table: pa.Table, seen: Sequence[Sequence[Any]]) -> pa.Table:
    made = [[_per_token(each) for each in row] for row in seen]
    return pa.table({"id": table["id"], "logprobs": pa.array(made, pa.list_(pa.list_(pa.float32())))})


def _per_token(seen: Any) -> Any:
    if seen.kept_T.all():
        return seen.logps_R
    own = iter(seen.logps_R.tolist())
    return [next(own) if kept else None for kept in seen.kept_T.tolist()]


def sums(folder: Path, ids: Sequence[str], what: str) -> Sums:
    """Summed log-probabilities and token counts of the pairs `ids`, from a `logprobs` table. Refusal if one is not there."""
    wanted = {id: at for at, id in enumerate(ids)}
    found = {name: np.full(len(ids), np.nan) for name in ("chosen", "rejected", "chosen_tokens", "rejected_tokens")}
    for table in rows.stream(folder):
        for id, both in zip(table["id"].to_pylist(), table["logprobs"].to_pylist(), strict=True):
            if id not in wanted:
                continue
            if len(both) != 2:
                raise Refusal(f"{what}: row {id!r} has {len(both)} responses, not chosen and rejected; let it read the same pairs")
            for side, values in zip(("chosen", "rejected"), both, strict=True):
                logps = [value for value in values if value is not None]
                found[side][wanted[id]] = float(np.sum(logps, dtype=np.float64))
                found[f"{side}_tokens"][wanted[id]] = len(logps)
    absent = int(np.isnan(found["chosen"]).sum())
    if absent:
        raise Refusal(f"{what}: has no log-probabilities of {absent} of {len(ids)} pairs; let the logprobs node read the same pairs")
    return found


def ranking(policy: Sums | None, reference: Sums | None, labels_P: np.ndarray, beta: float | None) -> Facts:
    """Ranking accuracy of policy and reference, the idealised one, and how far training moved both sides; without beta, what needs none."""
    facts: Facts = {}
    for who, known in (("", policy), ("reference_", reference)):
        if known is not None:
            facts[f"{who}ranking_accuracy"] = ranking_accuracy.ranking_accuracy(known["chosen"], known["rejected"])
            per_token = [ranking_accuracy.length_normalised(known[side], known[f"{side}_tokens"]) for side in ("chosen", "rejected")]
            facts[f"{who}ranking_accuracy_per_token"] = ranking_accuracy.ranking_accuracy(*per_token)
            facts[f"{who}ranking_ties"] = ranking_accuracy.tie_share(known["chosen"], known["rejected"])
    if reference is not None:
        theirs = (reference["chosen"], reference["rejected"])
        facts["mean_hardness_nats"] = mean(ranking_accuracy.hardness(*theirs))
        if beta is not None:
            facts["idealised_ranking_accuracy"] = ranking_accuracy.idealised_ranking_accuracy(*theirs, labels_P, beta)
    if policy is not None and reference is not None:
        facts |= _training(policy, reference, beta)
        if beta is not None:
            ours, ideal = facts["ranking_accuracy"], facts["idealised_ranking_accuracy"]
            facts["alignment_gap"] = None if ours is None or ideal is None else ideal - ours
    return facts


def _training(policy: Sums, reference: Sums, beta: float | None) -> Facts:
    moved = {side: policy[side] - reference[side] for side in ("chosen", "rejected")}
    for side in moved:
        short = policy[f"{side}_tokens"] != reference[f"{side}_tokens"]
        if short.any():
            ours, theirs = (int(known[f"{side}_tokens"][short][0]) for known in (policy, reference))
            raise Refusal(
                f"reference: scored {theirs} tokens of a {side} response of which {ours} are measured here; "
                "let the logprobs node score them with a model of the same tokenizer"
            )
    met = ranking_accuracy.against_reference(policy["chosen"], policy["rejected"], reference["chosen"], reference["rejected"])
    tokens = {side: float(policy[f"{side}_tokens"].sum()) for side in moved}
    facts: Facts = {"reward_accuracy": met.reward_accuracy}
    if beta is not None:
        margins_P = beta * (moved["chosen"] - moved["rejected"])
        facts |= {"mean_reward_margin": mean(margins_P), "saturated_share": ranking_accuracy.saturated_share(margins_P)}
    return facts | {
        **{f"{side}_logratio_per_token_nats": float(moved[side].sum()) / tokens[side] if tokens[side] else None for side in moved},
    }
