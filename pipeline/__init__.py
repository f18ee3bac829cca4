"""The core: artifacts, plans and runs. It imports no torch, vllm, transformers or deepspeed, and names no plugin.

What is offered here (`pipeline.run_recipe`, `pipeline.read`, ...) is the Python API, docs/python.md; it is imported on first use.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import (
        Artifact,
        Context,
        Outcome,
        Profile,
        Recipe,
        Refusal,
        Status,
        Step,
        build_step,
        facts,
        fork_run,
        load_profile,
        load_recipe,
        open_artifact,
        plan_recipe,
        read,
        read_events,
        run_recipe,
        status,
        sweep_recipe,
    )

from pipeline import rooms

rooms.first()
# Ray reads this once, when it is first imported, and vLLM imports Ray: so it is set before either can be.
os.environ.setdefault("RAY_AUTH_MODE", "token")

__all__ = [
    "Artifact",
    "Context",
    "Outcome",
    "Profile",
    "Recipe",
    "Refusal",
    "Status",
    "Step",
    "build_step",
    "facts",
    "fork_run",
    "load_profile",
    "load_recipe",
    "open_artifact",
    "plan_recipe",
    "read",
    "read_events",
    "run_recipe",
    "status",
    "sweep_recipe",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module("pipeline.api"), name)
