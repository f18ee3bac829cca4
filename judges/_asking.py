"""Putting judging questions to an engine: samples that parse by the grammar, or log-probabilities of allowed answers.

A question is asked again, with another seed, while too few of its answers are verdicts. A question that does not fit
into the judge's context stays unanswered. Seeds depend on the step and on the question, never on its neighbours.
Knows engines; knows no rubric and no score.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from engines import Completion, Engine, Request, RequestRefused
from judges._shield import Shield, specials
from models.chat import PromptTooLong
from models.messages import Message
from pipeline.draws import draw
from pipeline.errors import Refusal
from pipeline.model import endpoint
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools

T = TypeVar("T")
Tally = dict[str, tuple[float, float]]


class Asking(Settings):
    """The settings of every judge that asks a language model."""

    model: Annotated[str, Reads("policy", "endpoint")]
    """Who judges."""
    keep_texts: bool = True
    """Keep what the judge wrote, in the detail."""
    protect: bool = True
    """False only to measure what the protection against responses that address the judge is worth."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    samples: int
    enough: int
    """Answers with a verdict, below which a question is asked again."""
    retries: int
    """How often."""
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass
class Answers(Generic[T]):
    """What an engine said to one question."""

    values: list[T] = field(default_factory=list)
    """The verdicts, of those answers that have one."""
    texts: list[str] = field(default_factory=list)
    """All answers."""
    places: list[int] = field(default_factory=list)
    """Of sampled verdicts: which of the texts each was read in."""
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    too_long: bool = False


def sample(
    engine: Engine,
    questions: Sequence[str],
    parse: Callable[[int, str], T | None],
    how: Sampling,
    tools: Tools,
    salts: Sequence[object] | None = None,
    names: Sequence[str] | None = None,
) -> list[Answers[T]]:
    """Draw answers to each question and keep the verdicts; `parse` gets the question's number and an answer.

    Equal questions get equal answers, unless their `salts` differ. `names` are the prompts that the questions are about.
    """
    salts = salts or [None] * len(questions)
    found: list[Answers[T]] = [Answers() for _ in questions]
    open = list(range(len(questions)))
    for attempt in range(1 + (how.retries if how.temperature > 0 else 0)):
        # Asked again, a question needs only what is missing.
        wanted = [how.samples if attempt == 0 else max(how.enough - len(found[at].values), 1) for at in open]
        seeds = [seed_of(tools, questions[at], salts[at], attempt) for at in open]
        requests = [_request(questions[at], n, how, seed) for at, n, seed in zip(open, wanted, seeds, strict=True)]
        for at, completion in zip(open, complete(engine, requests, names and [names[at] for at in open]), strict=True):
            _take(found[at], completion, lambda text, at=at: parse(at, text))
        open = [at for at in open if len(found[at].values) < how.enough and not found[at].too_long]
        if not open:
            break
    return found


def weigh(
    engine: Engine, questions: Sequence[str], answers: Sequence[Sequence[str]], min_mass: float, names: Sequence[str] | None = None
) -> list[Answers[list[float]]]:
    """The probability of each allowed answer to each question, normalised over them; no value if their mass is too small.

    `answers[k]` are all spellings of the k-th answer. Each is an option, and the probabilities of its spellings add up.
    The value is (p_1, ..., p_K, mass), mass being what all options together had before.
    """
    options = tuple(spelling for spellings in answers for spelling in spellings)
    found: list[Answers[list[float]]] = [Answers() for _ in questions]
    requests = [Request(_messages(question), options=options) for question in questions]
    for each, completion in zip(found, complete(engine, requests, names), strict=True):
        _take(each, completion, lambda text: None)
        if completion is not None:
            value = _normalised(completion.option_logprobs, [len(spellings) for spellings in answers])
            if value is not None and value[-1] >= min_mass:
                each.values.append(value)
    return found


def spellings(answer: str) -> tuple[str, str]:
    """An answer as it may follow the chat template: at once, or after a space, which tokenizers tell apart."""
    return answer, f" {answer}"


def complete(engine: Engine, requests: Sequence[Request], names: Sequence[str] | None = None) -> list[Completion | None]:
    """The answers of an engine, with None where a prompt does not fit into its context.

    Raises Refusal with the name of the request that an endpoint does not answer.
    """
    found: dict[int, Completion] = {}
    try:
        _fill(engine, requests, range(len(requests)), found)
    except RequestRefused as error:
        if names is None or error.index < 0:
            raise
        raise Refusal(f"prompt {names[error.index]!r}: {error}") from error
    return [found.get(at) for at in range(len(requests))]


def _fill(engine: Engine, requests: Sequence[Request], places: Sequence[int], found: dict[int, Completion]) -> None:
    """Ask what is not answered yet; of requests among which one is too long, each half by itself."""
    todo = [at for at in places if at not in found]
    if not todo:
        return
    asked = [requests[at] for at in todo]
    try:
        each: Any = getattr(engine, "complete_each", None)
        if each is not None:  # answers that were paid for are kept although another one is refused
            each(asked, lambda at, completion: found.__setitem__(todo[at], completion))  # pyright: ignore[reportUnknownLambdaType]
        else:
            found.update(zip(todo, engine.complete(asked), strict=True))
    except RequestRefused as error:
        error.index = todo[error.index] if error.index >= 0 else -1
        raise
    except PromptTooLong:
        if len(todo) > 1:
            half = len(todo) // 2
            _fill(engine, requests, todo[:half], found)
            _fill(engine, requests, todo[half:], found)


def shield_of(tools: Tools, protect: bool) -> Shield:
    """What stands between candidates and the judge, who reads the control tokens of its own tokenizer."""
    served = endpoint(tools.input("model").path)
    folder = served.tokenizer if served is not None else tools.model("model").folder
    return Shield(specials(folder) if folder is not None else (), seed=tools.seed, on=protect)


def seed_of(tools: Tools, *what: object) -> int:
    """62 bits from the step's seed, the judge's place in it and what is asked."""
    return draw(tools.seed, tools.address, tools.within, repr(what)) >> 2


def tally(answers: Sequence[Answers[T]]) -> Tally:
    """What asking cost and how much of it could be read, for one group."""
    asked = sum(len(each.texts) for each in answers)
    return {
        "calls_per_prompt": (sum(each.calls for each in answers), 1),
        "parse_failures": (asked - sum(len(each.values) for each in answers if each.texts), asked),
        "too_long": (sum(each.too_long for each in answers), len(answers)),
        "cached_share": (sum(each.cached_tokens for each in answers), sum(each.prompt_tokens for each in answers)),
    }


def agreement(answers: Sequence[Answers[T]]) -> tuple[float, float]:
    """Of the pairs of verdicts on the same question, how many are equal."""
    same = total = 0
    for each in answers:
        counts = [each.values.count(value) for value in each.values]
        same += sum(count - 1 for count in counts)
        total += len(counts) * (len(counts) - 1)
    return same / 2, total / 2


def _take(found: Answers[T], completion: Completion | None, parse: Callable[[str], T | None]) -> None:
    found.calls += 1
    if completion is None:
        found.too_long = True
        return
    if completion.responses:  # engines do not say what they cached for options
        found.prompt_tokens += completion.prompt_tokens
        found.cached_tokens += completion.cached_tokens
    for response in completion.responses:
        found.texts.append(response.text)
        # The last line of an answer that was cut off may have said more: `4` could have become `4.5`.
        whole = response.text if response.finish_reason != "length" else response.text.rpartition("\n")[0]
        value = parse(whole)
        if value is not None:
            found.values.append(value)
            found.places.append(len(found.texts) - 1)


def _messages(question: str) -> tuple[Message, ...]:
    # One message of the user: some chat templates know no system role.
    return ({"role": "user", "content": question},)


def _request(question: str, n: int, how: Sampling, seed: int) -> Request:
    return Request(_messages(question), n=n, temperature=how.temperature, top_p=how.top_p, max_new_tokens=how.max_new_tokens, seed=seed)


def _normalised(logprobs: Sequence[float], sizes: Sequence[int]) -> list[float] | None:
    """(p_1, ..., p_K, mass) of log-probabilities in runs of `sizes`; None if all of them are impossible."""
    top = max(logprobs)
    if not math.isfinite(top) or any(math.isnan(logprob) for logprob in logprobs):
        return None
    weights = iter([math.exp(logprob - top) for logprob in logprobs])
    sums = [sum(next(weights) for _ in range(size)) for size in sizes]
    return [*(each / sum(sums) for each in sums), sum(sums) * math.exp(top)]
