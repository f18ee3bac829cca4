"""JSON schemas of recipes and profiles, for editors, with every plugin's own settings; and the reference page.

Built from the `Config`s alone, so that they cannot fall behind. `by_round` is allowed wherever a node of a
round takes a single value; a reference is a string that names a node.
"""

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from pipeline import plugin, profile
from pipeline.plugin import Reads
from pipeline.profile import Profile
from pipeline.recipe import Recipe
from pipeline.request import plain
from pipeline.views.reference import reference_markdown

__all__ = ["profile_schema", "recipe_schema", "reference_markdown"]

Schema = dict[str, Any]
REFERENCE = r"^[^@]+(@(prev([1-9][0-9]*)?|start|all))?$"
_BY_ROUND = "by_round"
_KEEP: Schema = {
    "type": "boolean",
    "default": True,
    "description": "Of every node. False: its files are removed once all that reads it is done; `status` then says dropped.",
}


_EXTENDS = (
    "A shipped recipe, or the path of one from this file: this one says what is different. Mappings merge, all else replaces, null "
    "takes away; another `kind` or `stage` brings its own settings."
)
_VALUE: Schema = {"type": "string", "pattern": r"^\$[A-Za-z][A-Za-z0-9_-]*$", "description": "A value of `values`."}


def recipe_schema() -> Schema:
    """The schema of a recipe's YAML."""
    defs: dict[str, Schema] = {}
    for kind in plugin.names("stages"):
        own = config_schema("stages", kind, defs, "stage")
        own["properties"]["keep"] = _KEEP
        once = {name: _said_once(name, field) for name, field in own["properties"].items()}
        defs[f"start.{kind}"] = {**own, "properties": once}
        varying = {name: _varying(name, field) for name, field in own["properties"].items()}
        defs[f"round.{kind}"] = {**own, "properties": {**varying, "stage": _sometimes(kind)}}
    schema = _top(Recipe, "rematch recipe", "What to do: a graph of nodes for the start, and one for each round.")
    strict: Schema = {}
    for section in ("start", "round"):
        nodes = [{"$ref": f"#/$defs/{section}.{kind}"} for kind in plugin.names("stages")]
        field = schema["properties"][section]
        [name] = field["patternProperties"]  # how a node may be named
        strict[section] = {"patternProperties": {name: {"oneOf": [*nodes, _elsewhere("stage")]}}}
        field |= {"patternProperties": {name: {"type": ["object", "null"]}}, "additionalProperties": False}
    # A patch is held to the settings of plugins once it is whole, which is when it is planned.
    required = [name for name in schema.pop("required") if name != "name"]
    schema["properties"]["extends"] = {"type": "string", "description": _EXTENDS}
    schema |= {"required": ["name"], "if": {"required": ["extends"]}, "else": {"required": required, "properties": strict}}
    for body in defs.values():
        if "kind" in body.get("properties", {}):  # a plugin's settings vary by round too; that those of the start do not, the plan says
            body["properties"] = {name: _varying(name, field) for name, field in body["properties"].items()}
    if any("$ref" in str(each) for each in defs.values()):
        defs[_BY_ROUND] = {
            "type": "object",
            "description": "A value for each round; the last one goes on.",
            "properties": {"by_round": {"type": "array", "minItems": 1}},
            "required": ["by_round"],
            "additionalProperties": False,
        }
    return {**schema, "$defs": {**schema.get("$defs", {}), **defs}}


def profile_schema() -> Schema:
    """The schema of a profile's YAML."""
    defs: dict[str, Schema] = {}
    schema = _resolved(_top(Profile, "rematch profile", inspect.cleandoc(profile.__doc__ or "")), Profile, defs)
    return {**schema, "$defs": {**schema.get("$defs", {}), **defs}}


def config_schema(folder: str, kind: str, defs: dict[str, Schema], tag: str = "kind") -> Schema:
    """The schema of one plugin as it is written in YAML: its settings, and the `kind` (or `stage`) that picks it."""
    module = plugin.load(folder, kind)
    schema = _resolved(module.Config.model_json_schema(), module.Config, defs)
    for name, body in plain(schema.pop("$defs", {})).items():
        defs[f"{folder}.{kind}.{name}"] = body
    schema = _renamed(schema, lambda ref: ref.replace("#/$defs/", f"#/$defs/{folder}.{kind}.", 1) if "." not in ref else ref)
    return {
        "type": "object",
        "title": kind,
        "description": inspect.cleandoc(module.__doc__ or ""),
        "properties": {tag: {"const": kind}, **schema.get("properties", {})},
        "required": [tag, *schema.get("required", [])],
        "additionalProperties": False,
    }


def _top(model: type[BaseModel], title: str, description: str) -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(),
        "title": title,
        "description": description,
    }


def _resolved(schema: Schema, config: type[BaseModel], defs: dict[str, Schema]) -> Schema:
    """Plugin fields spelled out, references marked."""
    properties: dict[str, Any] = {}
    for name, field in plain(schema.get("properties", {})).items():
        field = {key: value for key, value in _filled(field, defs).items() if key != "title"}
        marker = next((each for each in plugin.fields(config)[name].metadata if isinstance(each, Reads)), None)
        if marker:
            field = {**_references(field), "x-reads": list(marker.kinds)}
            field.setdefault("description", f"Reference to a node that makes {' or '.join(marker.kinds) or 'anything'}.")
        if isinstance(field.get("default"), dict) and "x-plugin" in str(field):
            field["default"] = {key: value for key, value in plain(field["default"]).items() if key != "version"}
        properties[name] = field
    return {**schema, "properties": properties}


def _filled(field: Any, defs: dict[str, Schema]) -> Any:
    """Each `x-plugin` mark, at any depth, followed by what may stand there."""
    if isinstance(field, list):
        return [_filled(each, defs) for each in list[Any](field)]
    if not isinstance(field, dict):
        return field
    body = {name: _filled(value, defs) for name, value in plain(field).items()}
    folder = body.get("x-plugin")
    if not isinstance(folder, str):
        return body
    names = plugin.names(folder)
    for kind in names:
        if f"{folder}.{kind}" not in defs:
            defs[f"{folder}.{kind}"] = {}  # first, because plugins may hold plugins
            defs[f"{folder}.{kind}"] = config_schema(folder, kind, defs)
    options = [{"$ref": f"#/$defs/{folder}.{kind}"} for kind in names]
    return {**body, "anyOf": [{"enum": list(names)}, {"type": "string", "pattern": r"\."}, *options, _elsewhere("kind")]}


def _elsewhere(tag: str) -> Schema:
    """A plugin from outside, whose settings are not known here."""
    return {"type": "object", "properties": {tag: {"type": "string", "pattern": r"\."}}, "required": [tag]}


def _references(field: Schema) -> Schema:
    """Every string in a reference field, as the spelling of a reference; a list may be written as one name."""

    def each(part: Any) -> Any:
        if isinstance(part, list):
            return [each(one) for one in list[Any](part)]
        if not isinstance(part, dict):
            return part
        body = {name: each(value) if name in ("anyOf", "items") else value for name, value in plain(part).items()}
        return {**body, "pattern": REFERENCE} if body.get("type") == "string" else body

    made = each(field)
    if made.get("type") == "array":
        about = {name: made.pop(name) for name in ("description", "default") if name in made}
        return {"anyOf": [{"type": "string", "pattern": REFERENCE}, made], **about}
    return made


def _varying(name: str, field: Schema) -> Schema:
    """A field of a round's node: what it is, or `{by_round: [...]}` of it."""
    if name in ("stage", "keep", "kind"):
        return field
    about = {key: field[key] for key in ("description", "default") if key in field}
    inner = {key: value for key, value in field.items() if key not in about}
    return {"anyOf": [inner, _VALUE, {"$ref": f"#/$defs/{_BY_ROUND}"}], **about}


def _said_once(name: str, field: Schema) -> Schema:
    """A field of the start's node: what it is, or the name of a value."""
    if name in ("stage", "keep", "kind"):
        return field
    about = {key: field[key] for key in ("description", "default") if key in field}
    return {"anyOf": [{key: value for key, value in field.items() if key not in about}, _VALUE], **about}


def _sometimes(kind: str) -> Schema:
    """A stage, or `{by_round: [...]}` with null for the rounds in which the node is not there."""
    each = {"enum": [kind, None]}
    rounds = {"type": "object", "properties": {_BY_ROUND: {"type": "array", "minItems": 1, "items": each}}, "required": [_BY_ROUND]}
    return {"anyOf": [{"const": kind}, {**rounds, "additionalProperties": False}]}


def _renamed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_renamed(each, change) for each in list[Any](value)]
    if isinstance(value, dict):
        return {name: change(each) if name == "$ref" else _renamed(each, change) for name, each in plain(value).items()}
    return value
