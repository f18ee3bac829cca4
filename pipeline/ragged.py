"""Arrow's list columns out of flat values and lengths, and Arrow's functions over columns."""

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute
"""Its functions are made when it is imported, so no type checker knows them."""


def offsets(lengths: Iterable[int]) -> pa.Array:
    """Where each list begins in the flat values, and where the last one ends."""
    return pa.array(list(accumulate(lengths, initial=0)), pa.int32())


def lists(values: Any, lengths: Iterable[int], null: Any = None) -> pa.ListArray:
    """A list column of flat values; `null` is true where a list is none at all."""
    return pa.ListArray.from_arrays(offsets(lengths), values, mask=null)
