"""Responses that are begun: which ids one may begin with, and where a stop string ends what follows. For engines that know ids."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engines import Request, RequestRefused, Response

ENDED = Response("", (), (), "stop")
"""What follows a response that is whole already."""
LEEWAY = 8
"""Tokens that are looked at beside one for each character of a stop string: some spell nothing."""


def over(requests: Sequence[Request], stop_ids: Sequence[int], vocabulary: int) -> list[bool]:
    """Whether each response has ended with what it begins with, so that nothing is left to sample.

    Raises RequestRefused, with its index, for the first that no response can begin with, or nothing can follow.
    """
    return [_over(index, request, stop_ids, vocabulary) for index, request in enumerate(requests)]


def _over(index: int, request: Request, stop_ids: Sequence[int], vocabulary: int) -> bool:
    begun = request.begun
    ends = [at for at, id in enumerate(begun) if id in stop_ids]
    strange = [id for id in begun if not 0 <= id < vocabulary]
    if strange:
        raise refused(
            index,
            f"its response begins with the token id {strange[0]}, and the vocabulary has the ids 0 to {vocabulary - 1}; "
            "begin with ids of this model's tokenizer",
        )
    if ends and ends[0] < len(begun) - 1:
        raise refused(
            index,
            f"its response begins with {len(begun)} tokens, and token {ends[0]} of them (id {begun[ends[0]]}) ends the turn; "
            "begin with ids of one turn",
        )
    if ends and request.options:
        raise refused(index, f"its options would come after token id {begun[-1]}, which ends the turn; begin without it")
    return bool(ends)


def refused(index: int, why: str) -> RequestRefused:
    """A RequestRefused that knows its place."""
    error = RequestRefused(f"request {index}: {why}")
    error.index = index
    return error


def stopped(tokenizer: Any, request: Request, ids: Sequence[int]) -> bool:
    """Whether a stop string ends with the last of these new ids; only the ids that could spell one are looked at."""
    from models import chat

    if not request.stop:
        return False
    reach = 2 * max(map(len, request.stop)) + LEEWAY
    new = list(ids[-reach:])
    before = list(request.begun[-reach:]) if len(new) == len(ids) else []
    text = tokenizer.decode([*before, *new], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return chat.first_stop(text, request.stop, chat.begun_text(tokenizer, before)) is not None


def cut(tokenizer: Any, request: Request, response: Response) -> Response:
    """The response up to a stop string that began in `begun`, for engines that look for them in what is new alone."""
    if not request.begun or not request.stop:
        return response
    for kept in range(1, min(len(response.token_ids), max(map(len, request.stop)) + LEEWAY) + 1):
        if stopped(tokenizer, request, response.token_ids[:kept]):
            return replace(response, token_ids=response.token_ids[:kept], logprobs=response.logprobs[:kept], finish_reason="stop")
    return response
