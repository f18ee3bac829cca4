"""Rows of two responses, one of them preferred: TRL's preference format and its relatives.

The prompt is explicit, or the beginning that both conversations share, as TRL's `extract_prompt` has it. Both responses must be
one assistant message after the same prompt: what training reads is that message alone. HelpSteer's preferences are whole numbers:
below 0 the first response is better, above 0 the second; 0 is a tie, which makes no pair. Anthropic's transcripts are texts with
`Human:` and `Assistant:` at the beginning of paragraphs.
"""

import re
from collections.abc import Iterator
from typing import Any

from models.messages import Message, chat_of, prompt_of
from pipeline.errors import Refusal
from stages import _adopt_rows
from stages.take import values
from stages.take.counts import Counts
from stages.take.shapes import SCORES
from stages.take.values import Row

Chat = tuple[Message, ...]
_CHOICES = {"helpsteer2-preference": ("prompt", "response_1", "response_2", "preference_strength"),
            "helpsteer3": ("context", "response1", "response2", "overall_preference")}  # fmt: skip


def made(found: Iterator[tuple[str, Row]], shape: str, counts: Counts) -> Iterator[tuple[str, Row]]:
    """Rows of the pairs table, each with where it stood. Pairs of equal responses and ties are dropped and counted."""
    for where, row in found:
        counts.read += 1
        try:
            given = values.identity(row, where)
            prompt, chosen, rejected = _CHOSEN[shape](shape, row, where)
            scores = _scores(row, where)
        except Refusal as problem:
            counts.malformed(problem)
            continue
        if chosen is None:
            counts.drop("ties")
        elif chosen == rejected:
            counts.drop("identical")
        else:
            prompt_id = _adopt_rows.prompt_id(prompt)
            identity = given or values.pair_id(prompt_id, chosen, rejected)
            if counts.once(identity, where) if given else counts.new(identity):
                yield where, {
                    "id": identity, "prompt_id": prompt_id, "prompt": list(prompt), "chosen": values.assistant(chosen),
                    "rejected": values.assistant(rejected), "chosen_score": scores[0], "rejected_score": scores[1], "weight": 1.0,
                }  # fmt: skip


def _scores(row: Row, where: str) -> tuple[float | None, float | None]:
    for chosen, rejected in SCORES:
        if chosen in row and rejected in row:
            return values.number(row[chosen], where, f"`{chosen}`"), values.number(row[rejected], where, f"`{rejected}`")
    return None, None


def _preference(shape: str, row: Row, where: str) -> tuple[Chat, str, str]:
    chosen, rejected = (values.column(row, name, where) for name in ("chosen", "rejected"))
    prompt = None if row.get("prompt") is None else prompt_of(row["prompt"], f"{where}: `prompt`")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            raise Refusal(
                f"{where}: has no prompt, and `chosen` is a text; name the column of the prompt (`columns: {{prompt: ...}}`), "
                "or write `shape: hh-rlhf` for transcripts"
            )
        return prompt, values.text(chosen, where, "`chosen`"), values.text(rejected, where, "`rejected`")
    both = chat_of(chosen, where, "`chosen`"), chat_of(rejected, where, "`rejected`")
    return _apart(*both, prompt, where)


def _apart(chosen: Chat, rejected: Chat, prompt: Chat | None, where: str) -> tuple[Chat, str, str]:
    """The prompt and the two last messages of conversations that share all but these."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared and prompt is None:
        raise Refusal(f"{where}: has no prompt, and `chosen` and `rejected` begin with different messages; mend the row")
    before = chosen[:shared] if prompt is None or prompt[-1] in chosen[:shared] else (*prompt, *chosen[:shared])
    for name, rest in (("chosen", chosen[shared:]), ("rejected", rejected[shared:])):
        if len(rest) != 1 or rest[0]["role"] != "assistant":
            raise Refusal(
                f"{where}: `{name}` goes on for {len(rest)} messages after what both share, the first the {rest[0]['role']}'s; "
                "a response is one assistant message, so cut it there"
            )
    texts = [values.text(chat[-1]["content"], where, f"`{name}`") for name, chat in (("chosen", chosen), ("rejected", rejected))]
    return prompt_of(before, where), texts[0], texts[1]


def _transcripts(shape: str, row: Row, where: str) -> tuple[Chat, str, str]:
    sides: list[Chat] = []
    for name in ("chosen", "rejected"):
        parts = re.split(r"\n\n(Human|Assistant):", "\n\n" + values.text(values.column(row, name, where), where, f"`{name}`").lstrip())
        if parts[0] or len(parts) < 5:
            raise Refusal(f"{where}: `{name}` is no transcript of `Human:` and `Assistant:` with at least two turns; mend the row")
        roles = ("user" if who == "Human" else "assistant" for who in parts[1::2])
        sides.append(tuple({"role": role, "content": said.strip()} for role, said in zip(roles, parts[2::2], strict=True)))
    return _apart(sides[0], sides[1], None, where)


def _choice(shape: str, row: Row, where: str) -> tuple[Chat, str | None, str | None]:
    """HelpSteer's: two responses and a whole number; no texts if it is a tie."""
    prompt, *responses, strength = _CHOICES[shape]
    asked = prompt_of(values.turns(values.column(row, prompt, where)), f"{where}: `{prompt}`")
    first, second = (values.text(values.column(row, name, where), where, f"`{name}`") for name in responses)
    how = values.number(values.column(row, strength, where), where, f"`{strength}`")
    if how is None or not how:
        return asked, None, None
    return (asked, first, second) if how < 0 else (asked, second, first)


_CHOSEN: dict[str, Any] = {
    "preference": _preference,
    "ultrafeedback-binarized": _preference,
    "hh-rlhf": _transcripts,
    "helpsteer2-preference": _choice,
    "helpsteer3": _choice,
}
