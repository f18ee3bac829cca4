"""From one row of a file or dataset to a Record: the field names that sources share, and what they refuse.

Knows nothing of files; the caller says where the row stands, so that a refusal can say it too.
"""

from collections.abc import Mapping
from typing import Any, cast

from models.messages import Message, prompt_of, shown
from pipeline.errors import Refusal
from pipeline.plugin import Settings, unknown
from sources import Record


class Fields(Settings):
    """Where a row keeps what a Record holds."""

    column: str = "prompt"
    """Field of the prompt: a text (one user message) or a list of {role, content}."""
    answer: str | None = None
    """Field of the reference answer that checkers look for; it becomes `meta.answer`."""
    response: str | None = None
    """Field of a demonstration, for the stage `demonstrations`: a text, or messages whose last one is the assistant's."""
    system: str | None = None
    """A system message put before every prompt that has none."""
    keep: tuple[str, ...] = ()
    """Further fields to keep in `meta`."""

    @property
    def columns(self) -> list[str]:
        """Every field that is read, once."""
        return list(dict.fromkeys(name for name in (self.column, self.answer, self.response, *self.keep) if name))


FOR_RECORDS = frozenset(Fields.model_fields)


def record(fields: Fields, row: Mapping[str, Any], where: str) -> Record:
    """The Record of one row. Raises Refusal, beginning with `where`, if a field is missing or of the wrong shape."""
    for name in fields.columns:
        if name not in row:
            raise Refusal(f"{where}: {unknown('field', name, list(row))}; name the source's fields as the file has them")
    prompt = prompt_of(row[fields.column], f"{where}: field '{fields.column}'")
    response: str | None = None
    if fields.response is not None:
        response = _response(row[fields.response], f"{where}: field '{fields.response}'")
    if fields.system is not None and prompt[0]["role"] != "system":
        prompt = (Message(role="system", content=fields.system), *prompt)
    meta: dict[str, object] = {name: row[name] for name in fields.keep}
    if fields.answer is not None:
        meta["answer"] = row[fields.answer]
    for name, value in meta.items():
        if not isinstance(value, str | int | float | list | dict | None):
            raise Refusal(
                f"{where}: field '{name}' holds a {type(value).__name__}, which JSON has not; leave it out, or convert it to text"
            )
    return Record(prompt, meta, response)


def _response(value: Any, where: str) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], dict) and value[-1].get("role") == "assistant":  # pyright: ignore
        value = cast(dict[str, Any], value[-1]).get("content")
    if not isinstance(value, str):
        raise Refusal(f"{where}: a response is a text, not {shown(value)}; name another field, or mend the row")
    return value
