"""A language model grades all responses of a prompt at once, each by the same rubric: the judge of DNO (arXiv:2404.03715).

The responses are shown without their makers, in an order that changes from sample to sample, so that what a place is
worth averages out. A score that a sample does not give by the strict grammar is missing from it; a response with too
few scores is undecided. A gold answer from the prompt's `meta` may be graded along with them (PU-RL, arXiv:2601.20687).
"""

import random
from collections.abc import Sequence
from statistics import fmean

from pydantic import Field, model_validator

from judges import Group, Verdict, _asking, _grammar, _prompts
from judges._shield import Shield
from metrics.win_rates import wins_certain
from pipeline.placement import Need
from pipeline.tools import Tools

VERSION = 2
USES: frozenset[Need] = frozenset({"engine"})


class Config(_asking.Asking):
    rubric: str = "joint-six"
    """`joint-six` (0 to 6), `additive-five` (0 to 5), or criteria in your own words, where `{low}` and `{high}` stand for the range."""
    scores: tuple[int, int] | None = None
    """Lowest and highest score; None: the shipped rubric's."""
    anchor: str | None = None
    """A field of the prompt's `meta`: its text is graded with the responses, and its score is in the detail."""
    samples: int = Field(1, ge=1)
    """Judgements that are averaged, each with the responses in another order."""
    min_readable: int = Field(1, ge=1)
    """Fewer scores leave a response undecided."""
    retries: int = Field(2, ge=0)
    """How often a judgement without a single readable score is asked for again."""
    temperature: float = Field(0.7, ge=0, le=2)
    """Of the judgements."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Of the judgements."""
    max_new_tokens: int = Field(1600, ge=1)
    """Longest judgement of all responses together."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        _prompts.rubric(self.rubric, self.scores)
        if self.min_readable > self.samples:
            raise ValueError(f"min_readable {self.min_readable} cannot be reached with samples {self.samples}")
        return self


_Scores = dict[int, float]
"""By the number of a text in its group."""


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    """Grade the different responses of each group together, `samples` times."""
    of = _prompts.rubric(config.rubric, config.scores)
    shield = _asking.shield_of(tools, config.protect)
    texts = [_prompts.distinct([*group.responses, *_anchor(config, group)]) for group in groups]
    orders = [
        _order(tools, group, once, sample) for group, (once, _) in zip(groups, texts, strict=True) for sample in range(config.samples)
    ]
    shown = [group_texts for group_texts in zip(groups, texts, strict=True) for _ in range(config.samples)]
    questions = [
        _prompts.together(of, group.prompt, [once[i] for i in order], shield, group.id)
        for (group, (once, _)), order in zip(shown, orders, strict=True)
    ]

    def parse(question: int, text: str) -> _Scores | None:
        order = orders[question]
        found = _grammar.scores(text, len(order), of.low, of.high)
        return {i: score for i, score in zip(order, found, strict=True) if score is not None} or None

    how = _asking.Sampling(1, 1, config.retries, config.temperature, config.top_p, config.max_new_tokens)
    salts = list(range(config.samples)) * len(groups)
    names = [group.id for group, _ in shown]
    answers = iter(_asking.sample(tools.engine("model"), questions, parse, how, tools, salts, names))
    remaining = iter(orders)
    return [
        _verdict(
            config, group, at, [next(answers) for _ in range(config.samples)], [next(remaining) for _ in range(config.samples)], shield
        )
        for group, (_, at) in zip(groups, texts, strict=True)
    ]


def _anchor(config: Config, group: Group) -> list[str]:
    text = group.meta.get(config.anchor) if config.anchor is not None else None
    return [] if text is None else [str(text)]


def _order(tools: Tools, group: Group, once: list[str], sample: int) -> list[int]:
    """The order in which the texts are shown: drawn for the set of texts, so that it says nothing of their places in the group."""
    order = sorted(range(len(once)), key=once.__getitem__)
    random.Random(_asking.seed_of(tools, group.id, sorted(once), sample)).shuffle(order)
    return order


def _verdict(
    config: Config, group: Group, at: list[int], answers: list[_asking.Answers[_Scores]], orders: list[list[int]], shield: Shield
) -> Verdict:
    samples = [each.values[0] if each.values else {} for each in answers]
    found = [[scores[i] for scores in samples if i in scores] for i in at]
    means = [fmean(values) if len(values) >= config.min_readable else None for values in found]
    scores = tuple(means[: len(group.responses)])
    tally = _asking.tally(answers)
    tally["parse_failures"] = (sum(len(order) - len(s) for order, s in zip(orders, samples, strict=True)), sum(map(len, orders)))
    tally["position_rate"] = _position(samples, orders)
    tally["sample_agreement"] = _agreement(found)
    tally["neutralised"] = (sum(map(shield.changes, group.responses)), len(group.responses))
    detail: dict[str, object] = {"samples": found[: len(group.responses)]}
    if len(means) > len(scores):
        detail["anchor_score"] = means[-1]
    if config.keep_texts:
        detail["texts"] = [each.texts for each in answers]
        detail["orders"] = [[at.index(i) for i in order] for order in orders]
    return Verdict(scores, wins_certain(scores), detail, tally)


def _position(samples: list[_Scores], orders: list[list[int]]) -> tuple[float, float]:
    """Of the pairs with different scores in one judgement, in how many the one shown earlier has the higher."""
    earlier = total = 0
    for scores, order in zip(samples, orders, strict=True):
        seen = [scores[i] for i in order if i in scores]
        for at, score in enumerate(seen):
            earlier += sum(score > later for later in seen[at + 1 :])
            total += sum(score != later for later in seen[at + 1 :])
    return earlier, total


def _agreement(found: list[list[float]]) -> tuple[float, float]:
    pairs = [(a, b) for values in found for at, a in enumerate(values) for b in values[at + 1 :]]
    return sum(a == b for a, b in pairs), len(pairs)
