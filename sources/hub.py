"""Rows of a dataset of the Hugging Face hub (huggingface.co/docs/datasets), at one commit.

A recipe that is to read the same rows next year pins `revision`; without it, the newest commit is read and
kept as a fact. Code from the hub is never run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from pydantic import Field

from models.hub import unreachable
from pipeline.errors import Refusal
from pipeline.plugin import unknown
from sources import Record
from sources._records import FOR_RECORDS as FOR_RECORDS
from sources._records import Fields, record

VERSION = 1


class Config(Fields):
    dataset: str
    """Its id, such as `openai/gsm8k`."""
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    """The full commit hash, as the dataset's page shows under "Files and versions"; if not given, the newest."""
    name: str | None = None
    """Its configuration, where it has several."""
    split: str = "train"
    """Its split."""


def read(config: Config) -> Iterator[Record]:
    """The records of one split, in its order; downloaded to the hub's cache on first use."""
    found = _load(config)
    names: list[str] = list(found.column_names)
    for name in config.columns:
        if name not in names:
            raise Refusal(f"{_where(config)}: {unknown('column', name, names)}; name the source's fields as the dataset has them")
    for where, row in _rows(config, found.select_columns(config.columns)):
        yield record(config, row, where)


def rows(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of one split with all their columns, in its order, each with its number."""
    return _rows(config, _load(config))


def origin(config: Config) -> dict[str, object]:
    """Which commit was read."""
    return {"dataset": config.dataset, "revision": _revision(config)}


def _rows(config: Config, found: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not len(found):
        raise Refusal(f"{_where(config)}: holds no rows; name another split")
    for at, row in enumerate(found):
        yield f"{_where(config)}, row {at}", row


def _where(config: Config) -> str:
    return f"{config.dataset} ({config.split})"


def _revision(config: Config) -> str:
    return config.revision or _newest(config.dataset)


@cache
def _newest(dataset: str) -> str:
    import huggingface_hub

    with _refused(dataset):
        return str(huggingface_hub.HfApi().dataset_info(dataset).sha)


def _load(config: Config) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise Refusal("source hub: the library `datasets` is not installed; `pip install rematch[cpu]`, or use jsonl or parquet") from None
    with _refused(config.dataset):
        return datasets.load_dataset(config.dataset, config.name, split=config.split, revision=_revision(config))


@contextmanager
def _refused(dataset: str) -> Iterator[None]:
    try:
        yield
    # ValueError is an unknown name or split.
    except (*unreachable(), ValueError) as error:
        raise Refusal(f"{dataset}: cannot be loaded ({error}); check id, revision, split and network") from None
