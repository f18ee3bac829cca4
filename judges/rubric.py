"""A language model grades each response on its own, after a rubric: the judge of Self-Rewarding (arXiv:2401.10020).

`sampled` draws several judgements (a short justification, then the score) and averages those that can be read by a
strict grammar. `probabilities` asks for the bare number and takes its expectation over the scores of the range,
from their log-probabilities. A response with too few readable judgements is undecided, never given a default.
"""

from collections.abc import Sequence
from statistics import fmean, pvariance
from typing import Any, Literal

from pydantic import Field, model_validator

from judges import Group, Verdict, _asking, _grammar, _prompts
from judges._shield import Shield
from metrics.win_rates import wins_certain
from pipeline.placement import Need
from pipeline.tools import Tools

VERSION = 2
USES: frozenset[Need] = frozenset({"engine"})


class Config(_asking.Asking):
    rubric: str = "additive-five"
    """`additive-five` (0 to 5), `joint-six` (0 to 6), or criteria in your own words, where `{low}` and `{high}` stand for the range."""
    scores: tuple[int, int] | None = None
    """Lowest and highest score; None: the shipped rubric's."""
    read: Literal["sampled", "probabilities"] = "sampled"
    """The score that the judge writes after reasoning, or the expected score by its probabilities, without reasoning."""
    samples: int = Field(3, ge=1)
    """Judgements of each response that are averaged."""
    min_readable: int | None = Field(None, ge=1)
    """Fewer readable judgements leave a response undecided; None: 2, or 1 of one sample."""
    retries: int = Field(2, ge=0)
    """How often a response with too few readable judgements is judged again."""
    temperature: float = Field(0.7, ge=0, le=2)
    """Of the judgements."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Of the judgements."""
    max_new_tokens: int = Field(400, ge=1)
    """Longest judgement; the score comes last, so a judgement cut off has none."""
    min_mass: float = Field(0.0, ge=0, le=1)
    """Undecided if the allowed scores have less probability than this together; for `probabilities`."""
    keep_questions: bool = False
    """Keep in the detail what the judge was asked, and which of its texts could be read: the stage `meta_judge` reads both."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        found = _prompts.rubric(self.rubric, self.scores)
        if self.read == "probabilities" and found.high > 9:
            raise ValueError(f"`read: probabilities` needs scores of one digit, or 1 would stand for 10 too; not up to {found.high}")
        if self.enough > self.samples:
            raise ValueError(f"min_readable {self.min_readable} cannot be reached with samples {self.samples}")
        if self.temperature == 0 and self.samples > 1 and self.read == "sampled":
            raise ValueError(f"temperature 0 would give the same judgement {self.samples} times; set samples: 1, or a temperature")
        if self.keep_questions and not (self.keep_texts and self.read == "sampled"):
            raise ValueError("keep_questions is for judgements that are kept; set `keep_texts: true` and `read: sampled`, or leave it out")
        return self

    @property
    def enough(self) -> int:
        return self.min_readable or min(2, self.samples)


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    """Grade each different response of each group once, in `samples` judgements or one look at the probabilities."""
    of = _prompts.rubric(config.rubric, config.scores)
    shield = _asking.shield_of(tools, config.protect)
    texts = [_prompts.distinct(group.responses) for group in groups]
    reason = config.read == "sampled"
    questions = [
        _prompts.pointwise(of, group.prompt, text, shield, group.id, reason=reason)
        for group, (once, _) in zip(groups, texts, strict=True)
        for text in once
    ]
    names = [group.id for group, (once, _) in zip(groups, texts, strict=True) for _ in once]
    engine = tools.engine("model")
    if reason:
        how = _asking.Sampling(config.samples, config.enough, config.retries, config.temperature, config.top_p, config.max_new_tokens)
        graded = [
            (_mean(answers.values, config.enough), answers)
            for answers in _asking.sample(engine, questions, lambda _, text: _grammar.score(text, of.low, of.high), how, tools, names=names)
        ]
    else:
        allowed = [_asking.spellings(str(value)) for value in range(of.low, of.high + 1)]
        graded = [(_expected(a.values, of.low), a) for a in _asking.weigh(engine, questions, allowed, config.min_mass, names)]
    rest = iter(zip(questions, graded, strict=True))
    return [_verdict(config, group, [next(rest) for _ in once], at, shield) for group, (once, at) in zip(groups, texts, strict=True)]


def _mean(values: list[float], enough: int) -> float | None:
    return fmean(values) if len(values) >= enough else None


def _expected(found: list[list[float]], low: int) -> float | None:
    """The expected score of (p_low, ..., p_high, mass)."""
    return sum((low + at) * p for at, p in enumerate(found[0][:-1])) if found else None


def _verdict(
    config: Config, group: Group, graded: list[tuple[str, tuple[float | None, _asking.Answers[Any]]]], at: list[int], shield: Shield
) -> Verdict:
    once = [answers for _, (_, answers) in graded]
    scores = tuple(graded[i][1][0] for i in at)
    tally = _asking.tally(once) | {"neutralised": (sum(map(shield.changes, group.responses)), len(group.responses))}
    detail: dict[str, object] = {}
    if config.read == "sampled":
        tally["sample_agreement"] = _asking.agreement(once)
        detail["samples"] = [once[i].values for i in at]
        detail["variance"] = [pvariance(once[i].values) if once[i].values else None for i in at]
        if config.keep_texts:
            detail["texts"] = [once[i].texts for i in at]
        if config.keep_questions:
            detail["questions"] = [graded[i][0] for i in at]
            detail["readable"] = [once[i].places for i in at]
    else:
        detail["probabilities"] = [once[i].values[0] if once[i].values else None for i in at]
        tally["option_mass"] = (sum(a.values[0][-1] for a in once if a.values), sum(bool(a.values) for a in once))
    return Verdict(scores, wins_certain(scores), detail, tally)
