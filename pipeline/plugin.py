"""Extension points are folders: the file name is the registration.

`kind: pairrm` under a field marked `Picks("judges")` imports `judges.pairrm` and validates the remaining keys
with that module's `Config`. A dotted kind (`mylab.judges.safety`) is imported as it stands. Plugin modules
must import heavy libraries inside functions: planning a run needs every `Config` and no torch.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

FOLDERS = ("stages", "judges", "objectives", "engines", "trainers", "rules", "sources", "reporters", "pipeline.executors")
VERBS: dict[str, str] = dict(zip(FOLDERS, ("run", "judge", "loss", "open", "train", "choose", "read", "report", "execute"), strict=True))
"""The function that makes a module a plugin of its folder."""


class Settings(BaseModel):
    """The base of every plugin's `Config`: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _one_name_is_a_list_of_one(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        body = dict(cast(dict[str, Any], body))
        for name, info in cls.model_fields.items():
            takes_many = get_origin(info.annotation) is tuple and any(isinstance(m, Reads) for m in info.metadata)
            if takes_many and isinstance(body.get(name), str):
                body[name] = (body[name],)
        return body


@dataclass(frozen=True)
class Reads:
    """Marks a `Config` field as a reference: it names nodes that make one of `kinds`, not a setting.

    The field's value is one name, a list of names or None, spelled `x`, `x@prev`, `x@prev2`, `x@start` or `x@all`.
    """

    kinds: tuple[str, ...]

    def __init__(self, *kinds: str) -> None:
        object.__setattr__(self, "kinds", kinds)


@dataclass(frozen=True)
class Gate:
    """Marks a `Config` field as a quality gate: it decides whether a step fails, and nothing of what the step makes.

    So it is no part of the step's identity: a step that failed goes on with what it had when its gate is widened, and
    what is finished is not made again when a gate is moved.
    """


class Choice(BaseModel):
    """A plugin that a recipe or profile picked: where it lives, and its validated settings."""

    model_config = ConfigDict(frozen=True)
    folder: str
    kind: str
    config: Any

    @property
    def module(self) -> ModuleType:
        """The plugin's module; looked up each time, because a step is pickled into other processes and modules are not."""
        return load(self.folder, self.kind)


@cache
def names(folder: str) -> tuple[str, ...]:
    """The plugins of `folder`: its public modules, sorted."""
    package = importlib.import_module(folder)
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def load(folder: str, kind: str) -> ModuleType:
    """The module of one plugin. Raises ValueError with the nearest known name if there is none."""
    if "." in kind:
        try:
            module = importlib.import_module(kind)
        except (TypeError, ModuleNotFoundError) as error:
            if isinstance(error, TypeError) and not kind.startswith("."):
                raise
            name = error.name if isinstance(error, ModuleNotFoundError) else kind
            if name and kind.startswith(name):
                raise ValueError(f"no module '{kind}' can be imported; install it, or put its folder on PYTHONPATH") from None
            raise
        if getattr(module, "__file__", None) is None and hasattr(module, "__path__"):
            raise ValueError(_no_package(Path(next(iter(module.__path__)))))
        lacks = [name for name in ("VERSION", "Config", VERBS[folder]) if not hasattr(module, name)]
        if lacks:
            raise ValueError(f"module '{kind}' has no {', '.join(lacks)}, so it is not one of the {folder}; name another module")
        return module
    if kind not in names(folder):
        for place in (Path(each) / kind for each in importlib.import_module(folder).__path__):
            if any(place.glob("*.py")):
                raise ValueError(_no_package(place))
        raise ValueError(unknown(folder.rpartition(".")[2].removesuffix("s"), kind, names(folder)))
    return importlib.import_module(f"{folder}.{kind}")


def _no_package(folder: Path) -> str:
    return f"the folder {folder} has no __init__.py, so it is no plugin; add one, with VERSION, Config and what else its room asks for"


def unknown(what: str, name: str, known: tuple[str, ...] | list[str]) -> str:
    """One sentence for a name that does not exist: the near miss if there is one, else all that exist."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"no {what} '{name}'; " + (f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known)) or 'none'}")


def parse(folder: str, value: Any) -> Choice:
    """Turn `{kind: ..., **settings}` (or a bare kind) into a Choice. Raises ValueError or pydantic's ValidationError."""
    if isinstance(value, Choice):
        return value
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, dict) or "kind" not in value:
        raise ValueError(f"needs a 'kind'; known: {', '.join(names(folder))}")
    body = dict(cast(dict[str, Any], value))
    kind = str(body.pop("kind"))
    config = load(folder, kind).Config
    try:
        return Choice(folder=folder, kind=kind, config=config.model_validate(body))
    except ValidationError as error:
        raise ValueError("; ".join(explain(error, config))) from None


def explain(error: ValidationError, config: type[BaseModel]) -> Iterator[str]:
    """Each problem of a ValidationError as `field: what is wrong`, with the near miss for an unknown field."""
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield unknown("field", where, list(fields(config)))
        elif problem["type"] == "missing":
            yield f"{where}: is required; add it"
        elif problem["type"] == "value_error":
            message = problem["msg"].removeprefix("Value error, ")
            yield f"{where}: {message}" if where else message
        elif where in config.model_fields and any(isinstance(m, Reads) for m in config.model_fields[where].metadata):
            yield f"{where}: takes the name of a node, not {problem['input']!r}"
        else:
            yield f"{where}: {problem['msg'].lower()}, not {problem['input']!r}"


def fields(config: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a config by the names that they have in YAML and in keys: Python cannot call one `as`."""
    return {info.alias or name: info for name, info in config.model_fields.items()}


def dump(choice: Choice) -> dict[str, Any]:
    """What identifies a choice: kind, version and the settings that differ from their defaults.

    Defaults are left out so that a new optional field does not disown old artifacts; a changed default
    must bump VERSION, and a golden test over all plugins holds us to it. References are left out because
    the keys of what they name stand in the step's identity instead, gates because they change nothing that is made.
    """
    return {"kind": choice.kind, "version": choice.module.VERSION, **settings(choice.config)}


def settings(config: BaseModel) -> dict[str, Any]:
    """The settings of a config that differ from their defaults, without its references and gates, as plain data."""
    apart = {name for name, _, _ in references(config)} | _gates(config)
    return config.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=apart)


def gates(config: BaseModel) -> dict[str, Any]:
    """The gates of a config that differ from their defaults, as plain data."""
    return config.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=_gates(config))


def _gates(config: BaseModel) -> set[str]:
    return {name for name, info in type(config).model_fields.items() if any(isinstance(m, Gate) for m in info.metadata)}


def references(config: BaseModel) -> Iterator[tuple[str, Reads, tuple[str, ...]]]:
    """The reference fields of one config (not of its nested choices): name, marker, names written there."""
    for name, info in type(config).model_fields.items():
        for marker in info.metadata:
            if isinstance(marker, Reads):
                value = getattr(config, name)
                yield name, marker, () if value is None else (value,) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True)
class Picks:
    """Marks a `Config` field as picking a plugin: `judge: Annotated[Choice, Picks("judges")]`."""

    folder: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: parse(self.folder, value), serialization=core_schema.plain_serializer_function_ser_schema(dump)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"x-plugin": self.folder}
