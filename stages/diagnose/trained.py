"""What a diagnosis must know of a training, read from the manifests of what it is given: nothing is said twice in a recipe."""

from collections.abc import Mapping
from typing import Any

import objectives
from pipeline import plugin
from pipeline.artifact import Artifact


def beta(given: Mapping[str, Artifact]) -> float | None:
    """The beta of the objective that `trained`, else `model`, was trained with; None if it was not trained here, or has none."""
    made = given.get("trained") or given.get("model")
    objective = None if made is None else _setting(made, "objective")
    if objective is None:
        return None
    kept = {name: value for name, value in objective.items() if name != "version"}
    return objectives.beta(plugin.parse("objectives", kept))


def max_length(given: Mapping[str, Artifact]) -> int | None:
    """How many tokens are looked at: those that `reference` scored, without one those trained on. None: all."""
    made = given.get("reference") or given.get("trained") or given.get("model")
    return None if made is None else _setting(made, "max_length")


def _setting(made: Artifact, name: str) -> Any:
    """A setting of the step that made an artifact, with its default; None if its stage has none of that name."""
    identity = made.manifest.identity
    if name in identity.get("settings", {}):
        return identity["settings"][name]
    stage = identity.get("stage")
    field = plugin.load("stages", stage).Config.model_fields.get(name) if stage else None
    return None if field is None or field.is_required() else field.get_default(call_default_factory=True)
