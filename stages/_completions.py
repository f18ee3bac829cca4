"""From what an engine answered to rows of a `candidates` table."""

from collections.abc import Sequence
from itertools import chain

import pyarrow as pa

from engines import Completion
from pipeline import ragged, rows
from stages import _columns


def candidates(table: pa.Table, completions: Sequence[Completion], tokenizers: Sequence[str | None], source: str) -> pa.Table:
    """The prompts with their completions, each under the fingerprint of its tokenizer; token ids are null where that is None.

    Built by columns: a million responses as Python structs would cost minutes.
    """
    known = [tokenizer is not None for tokenizer in tokenizers]
    each_known = [is_known for is_known, completion in zip(known, completions, strict=True) for _ in completion.responses]
    responses = [response for completion in completions for response in completion.responses]
    total = len(responses)
    structs = _columns.responses(
        total,
        text=pa.array([response.text for response in responses], pa.string()),
        token_ids=_lists([response.token_ids for response in responses], each_known),
        logprob=pa.array([sum(r.logprobs) if k else None for r, k in zip(responses, each_known, strict=True)], pa.float64()),
        finish_reason=pa.array([response.finish_reason for response in responses], pa.string()),
        source=pa.repeat(pa.scalar(source), total),
    )
    columns = {
        "id": table["id"],
        "prompt": table["prompt"],
        "meta": table["meta"],
        "prompt_token_ids": _lists([completion.prompt_token_ids for completion in completions], known),
        "tokenizer": pa.array(tokenizers, pa.string()),
        "responses": ragged.lists(structs, (len(completion.responses) for completion in completions)),
    }
    return pa.table(columns).cast(rows.TABLES["candidates"])


def _lists(ids: Sequence[Sequence[int]], known: Sequence[bool]) -> pa.ListArray:
    flat = pa.array(list(chain.from_iterable(ids)), pa.int32())
    return ragged.lists(flat, map(len, ids), None if all(known) else pa.array([not each for each in known]))
