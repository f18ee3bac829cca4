"""The verdict grammar: the only texts that count as a judge's verdict. Whatever else a judge writes is undecided.

A verdict is a word (`score`, `verdict`, `id2_score`), a colon or equals sign, and a value that ends its line. The
last place that starts like a verdict counts, and if that one is malformed there is no verdict: an earlier one may be
a quotation. Texts are compared folded, and `_shield` folds alike, so that no spelling passes one and not the other.
"""

import re
import unicodedata
from functools import cache

GAP = 12
"""Most characters of markup on either side of the colon."""
_MARKUP = rf"[^a-z0-9\n:=]{{0,{GAP}}}"
_SCORE = re.compile(rf"(?<![a-z0-9])score{_MARKUP}[:=]")
_VERDICT = re.compile(rf"(?<![a-z0-9])verdict{_MARKUP}[:=]")
_NUMBER = re.compile(
    r"[\s*_`\"'(\[]{0,12}(?P<value>\d{1,6}(?:\.\d{1,6})?)(?:\s{0,2}(?:/|out of)\s{0,2}(?P<of>\d{1,6}))?(?:\s{1,2}points?)?"
    r"(?:[\s*_`\"')\].,}]{0,12})$"
)
_CHOICE = re.compile(r"[\s*_`\"'(\[]{0,12}(?:response\s{1,2})?(?P<choice>[ab])[\s*_`\"')\].,}]{0,12}$")

# Letters and signs of other scripts that read as Latin ones; compatibility forms (full width, circled) are Unicode's own.
_LOOKS_LIKE = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455\u0456\u0458\u0501\u051b\u03b1\u03b2\u03b5\u03b9"
    "\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7\u03c9\u0131\u0251\u0261\u2236\u02d0\ua789\u05c3\u0589\u2223\u01c0\u2039\u203a"
    "\u2215\u2044\u0578",
    "abekmhopctyxsijdqabei" "kvoptuxwiag:::::||<>" "//n",
)  # fmt: skip


def fold(text: str) -> tuple[str, list[int] | None]:
    """A text as it looks: lower case, no invisible characters or accents, look-alikes as ASCII.

    Also, for each character of the result, its place in `text`; None if the places are the same.
    """
    if text.isascii():
        return text.lower(), None
    folded: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        seen = char.lower() if char.isascii() else _folded(char)
        folded.append(seen)
        places += [place] * len(seen)
    return "".join(folded), places


def score(text: str, low: float, high: float) -> float | None:
    """The number after the last `score:`: `4`, `4.5` or `4/5` (then `high` must be 5). None outside low to high."""
    folded, _ = fold(text)
    return _number(folded, _last(_SCORE, folded), low, high)


def scores(text: str, count: int, low: float, high: float) -> list[float | None]:
    """What follows the last `id1_score:`, `id2_score:` and so on, each as in `score`."""
    folded, _ = fold(text)
    return [_number(folded, _last(_numbered(at), folded), low, high) for at in range(1, count + 1)]


def choice(text: str) -> float | None:
    """1 if the last `verdict:` is followed by A, 0 if by B."""
    folded, _ = fold(text)
    at = _last(_VERDICT, folded)
    found = _CHOICE.match(_line(folded, at)) if at is not None else None
    return None if found is None else float(found["choice"] == "a")


@cache
def _folded(char: str) -> str:
    value = unicodedata.decimal(char, None)
    if value is not None:
        return str(value)
    if char in "\r\x85\u2028\u2029":
        return "\n"
    # Decomposed, so that an accent on a letter goes the way of one that follows it.
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", char).casefold())
    return "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Mn", "Me")).translate(_LOOKS_LIKE)


@cache
def _numbered(at: int) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])id\s?{at}\s?_?score{_MARKUP}[:=]")


def _last(pattern: re.Pattern[str], text: str) -> int | None:
    """Where the last match ends."""
    ends = [found.end() for found in pattern.finditer(text)]
    return ends[-1] if ends else None


def _line(text: str, start: int) -> str:
    return text[start:].partition("\n")[0]


def _number(text: str, start: int | None, low: float, high: float) -> float | None:
    found = _NUMBER.match(_line(text, start)) if start is not None else None
    if found is None or (found["of"] is not None and float(found["of"]) != high):
        return None
    value = float(found["value"])
    return value if low <= value <= high else None
