"""Looks for collapse and reward hacking in a round: a report of diagnostics, with alarms where one is out of bounds.

Ranking accuracies after arXiv:2405.19534; score and representation gaps after Temporal Self-Rewarding (arXiv:2508.06026);
KL estimates k1 and k3 after Schulman (2020); distinct-n after arXiv:1510.03055, its adjustment after arXiv:2202.13587,
self-BLEU after arXiv:1802.01886; win rate at equal length after arXiv:2404.04475. What needs an input that is not given is
left out, never guessed. The training's beta, and how many tokens are looked at, are read from what was trained and what scored
the reference: they are said once, there. With `earlier: diagnosis@all` a node compares itself with the rounds before. The numbers are in
`report.json` and in the facts, the log-probabilities they come from below `pairs` and `samples`.
"""

import json
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from metrics import alarms
from pipeline import artifact, rows
from pipeline.artifact import Artifact, Facts
from pipeline.errors import Refusal
from pipeline.placement import NOTHING, Need
from pipeline.plugin import Reads, Settings, unknown
from pipeline.tools import Tools
from stages.diagnose import duels, measures, passes, trained

VERSION = 3
MAKES = "report"


class Config(Settings):
    pairs: Annotated[str | None, Reads("pairs")] = None
    """Pairs to look at: the round's own, or a fixed held-out set."""
    judged: Annotated[str | None, Reads("judged")] = None
    """What they were made from: says what the judge prefers, and how many prompts gave a pair."""
    candidates: Annotated[str | None, Reads("candidates")] = None
    """Samples of `model` itself at temperature 1 and top_p 1, or KL and entropy mean nothing.
    None: those of `judged`, for length and diversity alone."""
    model: Annotated[str | None, Reads("policy")] = None
    """The policy: ranking accuracy and representation gap on `pairs`, entropy on `candidates`."""
    against: Annotated[str | None, Reads("policy")] = None
    """What the KL divergence of `model` is measured to, such as `policy@start` or `policy@prev`."""
    reference: Annotated[str | None, Reads("logprobs")] = None
    """Log-probabilities of `pairs` under the reference of the training."""
    head_to_head: Annotated[str | None, Reads("report")] = None
    """A report of `evaluate` with `against`: its win rate at equal length, and whether its judge and its checker still agree."""
    earlier: Annotated[tuple[str, ...], Reads("report")] = ()
    """Earlier reports of this stage, oldest first, such as `diagnosis@all`: drift is measured to the first and the last."""
    trained: Annotated[str | None, Reads("policy")] = None
    """The training whose beta counts, where `model` is none itself but was made from one (`merge`). None: `model`."""
    rows: int = Field(1024, ge=1)
    """Of pairs and of samples, at most this many rows, evenly spaced, go through a model or are compared word by word."""
    limits: dict[str, float] = {}
    """Thresholds of alarms that differ from the defaults, by the name of the fact, such as `kept_share: 0.5`."""

    @field_validator("limits")
    @classmethod
    def _known(cls, limits: dict[str, float]) -> dict[str, float]:
        for name in limits:
            if name not in alarms.BOUNDS:
                raise ValueError(unknown("alarm on", name, list(alarms.BOUNDS)))
        return limits

    @model_validator(mode="after")
    def _enough(self) -> "Config":
        if not (self.pairs or self.judged or self.candidates or self.head_to_head):
            raise ValueError("there is nothing to look at; name at least one of pairs, judged, candidates and head_to_head")
        if self.reference and not self.pairs:
            raise ValueError("reference: holds log-probabilities of pairs; name the pairs too")
        if self.model and not (self.pairs or self.candidates):
            raise ValueError("model: there is nothing to run it over; name pairs or candidates")
        if self.trained and not self.model:
            raise ValueError("trained: is the training that `model` was made from; name the model too")
        if self.against and not (self.model and self.candidates):
            raise ValueError("against: the KL divergence is that of `model` on its own `candidates`; name both")
        return self


def uses(config: Config) -> frozenset[Need]:
    """Plain forward passes, if there is a model."""
    return frozenset({"forward"}) if config.model else NOTHING


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """A report has no rows."""
    return {"rows": None, "tokens": None}


def run(config: Config, tools: Tools) -> Facts:
    """Facts: shares are of one, log-probabilities in nats, lengths in tokens; `alarms` holds a sentence for each bound crossed."""
    given = {slot: found[0] for slot, found in tools.inputs.items() if found and slot != "earlier"}
    earlier = [_report(each, tools) for each in tools.inputs.get("earlier", ())]
    facts: Facts = {}
    if "judged" in given:
        facts |= measures.judged(given["judged"]) | measures.judge(given["judged"])
        if "pairs" in given:
            facts["kept_share"] = measures.kept_share(given["pairs"], given["judged"])
    if "pairs" in given:
        facts |= _pairs(config, given, tools)
    samples = given.get("candidates") or given.get("judged")
    if samples is not None:
        some = measures.sample(samples, "candidates", config.rows, tools.work)
        # Token ids are the model's own where the candidates are: those that were judged may be anybody's.
        size = measures.vocabulary(tools.model("model").folder) if "model" in given and "candidates" in given else None
        facts |= measures.samples(samples, some, size)
        if "model" in given and "candidates" in given:
            facts |= passes.over_samples(some, trained.max_length(given), "against" in given, tools)
    if "head_to_head" in given:
        facts |= duels.facts(given["head_to_head"].path, tools.seed)
    facts = {name: round(value, 6) if isinstance(value, float) else value for name, value in facts.items()}
    facts |= drift(facts, earlier)
    facts["alarms"] = alarms.alarms(facts, earlier, config.limits)
    artifact.write_file(tools.out / "report.json", json.dumps(facts, indent=2, sort_keys=True, allow_nan=False).encode())
    return facts


def _pairs(config: Config, given: dict[str, Artifact], tools: Tools) -> Facts:
    some = measures.sample(given["pairs"], "pairs", config.rows, tools.work)
    table = rows.read(some.path, ["id", "label"])
    ids, labels_P = table["id"].to_pylist(), table["label"].fill_null(np.nan).to_numpy()
    facts = {**measures.pairs(given["pairs"], some), "pairs_measured": len(ids)}
    policy = reference = None
    if "model" in given:
        facts |= passes.over_pairs(some, trained.max_length(given), tools)
        policy = passes.sums(tools.out / "pairs", ids, "model")
    if "reference" in given:
        reference = passes.sums(given["reference"].path, ids, "reference")
    return facts | passes.ranking(policy, reference, labels_P, trained.beta(given))


def drift(facts: Facts, earlier: list[Facts]) -> Facts:
    """The facts against those of the last earlier report, and of the first that knows them (a start has no pairs); nothing over zero."""
    if not earlier:
        return {}
    wanted = (
        ("length_ratio_to_first", "mean_tokens"),
        ("length_growth_since_last", "mean_tokens"),
        ("distinct_2_ratio_to_first", "distinct_2"),
        ("entropy_ratio_to_first", "entropy_per_token_nats"),
        ("score_gap_ratio_to_first", "mean_score_gap"),
        ("kl_ratio_to_last", "kl_k3_per_token_nats"),
    )
    found: Facts = {}
    for name, fact in wanted:
        known = [each for each in earlier if alarms.number(each, fact) is not None]
        then = earlier[-1] if name.endswith("_last") else known[0] if known else {}
        now, before = alarms.number(facts, fact), alarms.number(then, fact)
        if now is not None and before is not None and before > 0:
            found[name] = round(now / before - (1 if name.endswith("growth_since_last") else 0), 6)
    return found


def _report(made: Artifact, tools: Tools) -> Facts:
    try:
        body: Any = json.loads((made.path / "report.json").read_text())
    except FileNotFoundError:
        raise Refusal(f"{tools.address}: earlier: {made.path} holds no report.json; name reports of the stage diagnose") from None
    return body
