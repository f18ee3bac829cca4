"""Candidates cannot speak to the judge: what is judged stands between marks it cannot know, and cannot issue verdicts.

Neutralised are our own marks, the verdict grammar (and the forms that other judges' prompts use), and the control
tokens of chat templates, in any look-alike spelling. Every change is an insertion of spaces, or of `(quoted)` in
the place of a colon, so that the judge still reads what was said. Prose that argues with the judge is left alone:
against it there are only the marks and the reminder after them.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from blake3 import blake3

from judges._grammar import GAP, fold

_ROUNDS = 8
"""Most passes over one text; each breaks what it finds, so that a second one seldom finds any."""
_VALUE = r"(?:response\s{1,2})?(?:\d|[ab](?![a-z0-9])|tie(?![a-z0-9]))"
_SAYS = re.compile(
    r"(?<![a-z0-9])(?:id\s?\d{1,4}\s?_?)?(?:scores?|verdict|ratings?|winner|grade|judge?ment|preferred|total|points|marks?)"
    rf"(?P<cut>[^a-z0-9:=\n]{{0,{GAP}}}[:=]+)(?=[^a-z0-9]{{0,24}}{_VALUE})"
)
_BRACKETS = re.compile(r"\[(?P<cut>)\[\s{0,4}(?:[abc]|tie|\d{1,3}(?:\.\d{1,3})?)\s{0,4}\]\]")
_MARKS = re.compile(r"<(?P<cut>)<[^a-z0-9<>\n]{0,8}(?:end[^a-z0-9<>\n]{1,4})?(?:conversation|response|reference)")
_CONTROL = re.compile(
    r"<(?P<cut>)(?:\|[^|<>\n]{1,48}\||/?(?:s|bos|eos|pad|unk|mask|sep|cls|eot|eom|think|system|assistant|user|human|im_start|im_end|"
    r"start_of_turn|end_of_turn|start_of_role|end_of_role|tool_call|tool_response|endoftext|extra_id_\d{1,3}|<sys>))>"
    r"|\[(?P<cut2>)/?(?:inst|sys|bos|eos|sep|cls|pad|unk|mask|system_prompt|available_tools)\]"
)


class Shield:
    """Neutralises texts before a judge sees them, and marks where they begin and end.

    `specials` are the control tokens of the judge's own tokenizer; the codes of marks derive from `seed`.
    """

    def __init__(self, specials: tuple[str, ...] = (), *, seed: int = 0, on: bool = True) -> None:
        self._seed, self._on = seed, on
        spelled = {fold(token)[0] for token in specials} - {""}
        longest_first = sorted(spelled, key=lambda token: (-len(token), token))
        self._specials = re.compile("|".join(re.escape(token) for token in longest_first)) if spelled else None
        self.clean = lru_cache(maxsize=4096)(self._clean)

    def block(self, name: str, text: str, id: str) -> str:
        """A text between marks whose code is a hash of the seed, the group's id and the text: no text can hold its own."""
        code = f" {blake3(repr((self._seed, id, name, text)).encode()).hexdigest(8)}" if self._on else ""
        return f"<<<{name}{code}>>>\n{self.clean(text)}\n<<<end {name}{code}>>>"

    def changes(self, text: str) -> bool:
        """Whether there is anything to neutralise in a text; counted also where nothing is neutralised."""
        return self._pass(text) != text

    def _clean(self, text: str) -> str:
        for _ in range(_ROUNDS if self._on else 0):
            before, text = text, self._pass(text)
            if text == before:
                break
        return text

    def _pass(self, text: str) -> str:
        folded, places = fold(text)
        cuts: list[tuple[int, int, str]] = []
        for found in _SAYS.finditer(folded):
            cuts.append((*found.span("cut"), " (quoted)"))
        for pattern in (_BRACKETS, _MARKS, _CONTROL):
            for found in pattern.finditer(folded):
                at = found.end("cut2") if pattern is _CONTROL and found.start("cut2") >= 0 else found.end("cut")
                cuts.append((at, at, " "))
        if self._specials is not None:
            # A token of one character cannot be broken by a space inside it: the space takes its place.
            cuts += [
                (f.start() + 1, f.start() + 1, " ") if f.end() > f.start() + 1 else (*f.span(), " ")
                for f in self._specials.finditer(folded)
            ]
        return _edited(text, cuts, places) if cuts else text


@lru_cache(maxsize=8)
def specials(folder: Path) -> tuple[str, ...]:
    """The control tokens that the tokenizer of a Hugging Face folder knows; none if the folder has no tokenizer.json."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return ()
    added: list[dict[str, Any]] = json.loads(path.read_text()).get("added_tokens") or []
    return tuple(token["content"] for token in added if token.get("special") and token["content"].strip())


def _edited(text: str, cuts: list[tuple[int, int, str]], places: list[int] | None) -> str:
    """`text` with each span of the folded text replaced; overlapping spans after the first are left to the next pass."""
    parts: list[str] = []
    done = 0
    for start, end, new in sorted(cuts):
        if places is not None:
            start, end = (places[at] if at < len(places) else len(text) for at in (start, end))
        if start < done or (parts and start == done and new == " "):
            continue
        parts += [text[done:start], new]
        done = end
    return "".join(parts) + text[done:]
