"""Judges by the final answer: 1 if it equals the reference in `meta.answer`, 0 if not, undecided without a reference.

Numbers compare by value (1,000 = $1000.00 = 2000/2), texts by words. The reference and the response may mark
their answer as GSM8K does (`#### 42`, arXiv:2110.14168) or as MATH does (`\\boxed{42}`, arXiv:2103.03874);
without a mark, the last number of the response counts.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

from judges import Group, Verdict
from metrics.win_rates import wins_certain
from pipeline.placement import NOTHING
from pipeline.plugin import Settings

VERSION = 1
USES = NOTHING


class Config(Settings):
    compare: Literal["auto", "number", "text"] = "auto"
    """How: `auto` takes a reference that is a number as a number, any other as text."""


# A sign counts only where it cannot be a minus between two terms, a comma only where it parts thousands.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w).\]}])[-\u2212+])?(?:[$\u20ac\u00a3]\s?)?(?P<sign2>(?<=[$\u20ac\u00a3])[-\u2212])?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)(?:/(?P<below>\d+(?!\d*\.\d)))?"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_UNITS = re.compile(r"\\(?:text|mathrm)\s*\{[^{}]*\}|\\[%$]|[%$\u20ac\u00a3\u00b0]|\\[,!;: ]|\\left|\\right")
_SAID = re.compile(r"\banswer\s*(?:is|:)\s*:?\s*(.+)", re.IGNORECASE)
_MAX_DIGITS = 400
"""Longer runs of digits are noise, and Python refuses to parse the longest."""


def judge(config: Config, groups: Sequence[Group], tools: Any) -> list[Verdict]:
    """Check the final answer of each response against `meta.answer` (one value, or a list of accepted ones)."""
    return [_verdict(config, group) for group in groups]


def correct(response: str, answer: object, compare: str = "auto") -> bool:
    """Whether the final answer of `response` equals `answer` (one value, or a list of accepted ones)."""
    accepted: list[object] = list(answer) if isinstance(answer, list | tuple) else [answer]  # pyright: ignore[reportUnknownArgumentType]
    return any(_equal(response, str(one), compare) for one in accepted)


def has_reference(answer: object) -> bool:
    """Whether there is anything to check against."""
    return answer is not None and answer != [] and str(answer).strip() != ""


def number(text: str) -> Fraction | None:
    """The last number in a text, by value; None if there is none."""
    text = _FRACTION.sub(r" \1/\2 ", text)
    matches = list(_NUMBER.finditer(text))
    if not matches or len(matches[-1]["digits"]) > _MAX_DIGITS:
        return None
    found = matches[-1]
    value = Fraction(found["digits"].replace(",", ""))
    below = found["below"]
    if below is not None and len(below) <= _MAX_DIGITS and int(below):
        value /= int(below)
    return -value if "-" in (signs := (found["sign"] or "") + (found["sign2"] or "")) or "\u2212" in signs else value


def marked(text: str) -> str | None:
    """What a text marks as its answer: after the last `####`, else in the last `\\boxed{}`; None if it marks nothing."""
    _, mark, after = text.rpartition("####")
    if mark and after.strip():
        return after.strip().splitlines()[0].strip()
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for at in range(start + len("\\boxed"), len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : at].strip()
    return None


def _verdict(config: Config, group: Group) -> Verdict:
    answer = group.meta.get("answer")
    if not has_reference(answer):
        return Verdict((None,) * len(group.responses))
    scores = tuple(float(correct(text, answer, config.compare)) for text in group.responses)
    return Verdict(scores, wins_certain(scores))


def _equal(response: str, answer: str, compare: str) -> bool:
    reference = marked(answer) or answer
    if compare == "number" or (compare == "auto" and _is_number(reference)):
        wanted = number(reference)
        return wanted is not None and number(marked(response) or response) == wanted
    wanted_text = _plain(reference)
    return any(_plain(said) == wanted_text for said in _final_texts(response))


def _is_number(text: str) -> bool:
    bare = _UNITS.sub("", _FRACTION.sub(r"\1/\2", text)).strip()
    found = _NUMBER.fullmatch(bare)
    return found is not None


def _final_texts(response: str) -> list[str]:
    """Where a text answer may stand: the mark if there is one; else the whole, its last line, or after "answer is"."""
    mark = marked(response)
    if mark is not None:
        return [mark]
    lines = response.strip().splitlines()
    said = _SAID.findall(response)
    return [response, *lines[-1:], *said[-1:]]


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.split()).strip(" .,;:!?\"'`*")
