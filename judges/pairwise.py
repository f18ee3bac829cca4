"""A language model says which of two responses is better, asked in both orders: no place in the prompt is favoured.

`prob` reads the probabilities of the answers A and B, normalised over the two, and averages the orders; `strict`
samples a reasoned verdict, and a pair whose orders disagree is a tie (Zheng et al., arXiv:2306.05685, section 3.4).
All pairs of K responses take K(K-1) calls. Against one baseline alone it is 2(K-1), and what is known of the other
pairs follows from the strengths logit P(i beats the baseline) (OSP, arXiv:2405.14103; Bradley-Terry, 1952). In a
tournament (INPO, arXiv:2407.00617, section 4.1) it is at most 22 for K = 8. It finds the best and the worst alone, so
there is no win table: comparisons that were not made are not made up. Where the overall winner does not beat the
overall loser, INPO keeps no pair: all responses have 0.5 then, which pair rules take for a tie, and it counts as a
`final_upset`. One comparison without a verdict leaves its group undecided, for nobody can go on.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from judges import Group, Verdict, _asking, _comparisons, _grammar, _prompts
from judges._comparisons import Outcome
from judges._shield import Shield
from metrics.bracket import Game
from pipeline.placement import Need
from pipeline.tools import Tools

VERSION = 2
USES: frozenset[Need] = frozenset({"engine"})


class Config(_asking.Asking):
    mode: Literal["prob", "strict"] = "prob"
    """P(A is better) by the probabilities of the answers; or a written verdict, which both orders must share."""
    against: Literal["all", "first", "tournament"] = "all"
    """Compare all pairs, each response with the first one, or in a tournament. Below an `anchor` judge: with the anchor only, always."""
    question: str | None = None
    """What better means, in your own words; None: more helpful to the user."""
    tau: float = Field(1.0, gt=0)
    """Temperature of P(i beats j) where both were compared with a baseline only: sigmoid((e_i - e_j) / tau)."""
    samples: int = Field(1, ge=1)
    """Verdicts in each order, of which the majority counts; for `strict`."""
    retries: int = Field(2, ge=0)
    """How often a question without a readable verdict is asked again; for `strict`."""
    temperature: float = Field(0.7, ge=0, le=2)
    """Of the verdicts; for `strict`."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Of the verdicts; for `strict`."""
    max_new_tokens: int = Field(400, ge=1)
    """Longest reasoning; the verdict comes last, so one that was cut off has none; for `strict`."""
    min_mass: float = Field(0.0, ge=0, le=1)
    """Undecided if A and B together have less probability than this; for `prob`."""

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.mode == "strict" and self.temperature == 0 and self.samples > 1:
            raise ValueError(f"temperature 0 would give the same verdict {self.samples} times; set samples: 1, or a temperature")
        return self


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    """Compare the different responses of each group, both ways round, and reduce that to scores and a win table.

    Scores are mean win rates against the others; against a baseline, P(i beats it), and 0.5 for itself; in a tournament,
    the share of comparisons won. What all groups ask next is asked at once: a tournament takes one batch a level.
    """
    shield = _asking.shield_of(tools, config.protect)
    texts = [_prompts.distinct(group.responses) for group in groups]
    outcomes: list[dict[Game, Outcome]] = [{} for _ in groups]
    answers: list[list[_asking.Answers[Any]]] = [[] for _ in groups]
    question = config.question or _prompts.QUESTION
    while todo := [
        (n, pair)
        for n, (group, (once, at)) in enumerate(zip(groups, texts, strict=True))
        for pair in _next(config, _baseline(config, group, at), len(once), outcomes[n])
    ]:
        questions = [
            _prompts.pair(question, groups[n].prompt, texts[n][0][a], texts[n][0][b], shield, groups[n].id, reason=config.mode == "strict")
            for n, (i, j) in todo
            for a, b in ((i, j), (j, i))  # side by side, so that a prefix cache still holds what they share
        ]
        found = iter(_ask(config, questions, [groups[n].id for n, _ in todo for _ in range(2)], tools))
        for n, pair in todo:
            (first, one), (second, other) = next(found), next(found)
            outcomes[n][pair] = Outcome(first, second)
            answers[n] += [one, other]
    return [
        _verdict(config, group, len(once), at, met, said, shield)
        for group, (once, at), met, said in zip(groups, texts, outcomes, answers, strict=True)
    ]


def _next(config: Config, base: int | None, count: int, outcomes: dict[Game, Outcome]) -> Sequence[Game]:
    """Which of the different texts are compared next; none if that is all."""
    if base is None and config.against == "tournament" and count > 1:
        so_far = _comparisons.bracket(count, outcomes, config.mode == "strict")
        return so_far.open if so_far is not None else ()
    if outcomes:
        return ()
    return [(i, j) for i in range(count) for j in range(i + 1, count)] if base is None else [(i, base) for i in range(count) if i != base]


def _baseline(config: Config, group: Group, at: list[int]) -> int | None:
    if group.anchor is not None:
        return at[group.anchor]
    return 0 if config.against == "first" and at else None


def _ask(config: Config, questions: list[str], names: list[str], tools: Tools) -> list[tuple[float | None, _asking.Answers[Any]]]:
    """For each question P(A is better) as the judge has it, None where it gave no verdict."""
    engine = tools.engine("model")
    if config.mode == "prob":
        weighed = _asking.weigh(engine, questions, [_asking.spellings("A"), _asking.spellings("B")], config.min_mass, names)
        return [(a.values[0][0] if a.values else None, a) for a in weighed]
    how = _asking.Sampling(config.samples, 1, config.retries, config.temperature, config.top_p, config.max_new_tokens)
    sampled = _asking.sample(engine, questions, lambda _, text: _grammar.choice(text), how, tools, names=names)
    return [(_comparisons.majority(answers.values), answers) for answers in sampled]


def _verdict(
    config: Config, group: Group, count: int, at: list[int], outcomes: dict[Game, Outcome], answers: list[_asking.Answers[Any]],
    shield: Shield,
) -> Verdict:  # fmt: skip
    strict = config.mode == "strict"
    base = _baseline(config, group, at)
    tally = _asking.tally(answers) | _comparisons.tally(outcomes.values())
    if base is None and config.against == "tournament" and count > 1:
        (scores, over), wins = _comparisons.through_bracket(count, outcomes, strict), None
        tally["final_upset"] = (int(over is not None and over.upset), int(over is not None))
    elif base is None:
        scores, wins = _comparisons.all_pairs([at.count(i) for i in range(count)], outcomes, strict)
    else:
        scores, wins = _comparisons.through_baseline(count, base, outcomes, strict, config.tau)
    tally["neutralised"] = (sum(map(shield.changes, group.responses)), len(group.responses))
    first = {place: at.index(place) for place in set(at)}
    detail: dict[str, object] = {"orders": [[first[i], first[j], o.shown_first, o.shown_second] for (i, j), o in outcomes.items()]}
    if strict:
        tally["sample_agreement"] = _asking.agreement(answers)
        if config.keep_texts:
            detail["texts"] = [each.texts for each in answers]
    else:
        tally["option_mass"] = (sum(a.values[0][-1] for a in answers if a.values), sum(bool(a.values) for a in answers))
    spread = None if wins is None else tuple(tuple(wins[i][j] for j in at) for i in at)
    return Verdict(tuple(scores[i] for i in at), spread, detail, tally)
