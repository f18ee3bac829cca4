"""A profile says where and how fast a recipe runs, never what comes out. It bears no identity."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline import document
from pipeline.errors import Problems, Refusal
from pipeline.plugin import Choice, Picks, Settings, explain, parse
from pipeline.recipe import set_value


class Forward(Settings):
    """Hardware for plain forward passes of a model: judges that score, and reference log-probabilities."""

    device: str = "cpu"
    """torch device of each worker, such as `cpu` or `cuda`."""
    dtype: str = Field(default="float32", pattern="^(float32|bfloat16|float16)$")
    """Weights and activations; keep the trainer's, or references and policy disagree."""
    tokens_per_batch: int = Field(default=2048, ge=1)
    """Padded tokens of one batch: small on a CPU, large on a GPU. Changes speed only."""
    replicas: int = Field(default=1, ge=1)
    """Workers."""
    gpu_fraction: float = Field(default=0.0, ge=0)
    """GPUs of each worker."""
    cpus: float = Field(default=1.0, gt=0)
    """CPU cores of each worker."""


class Profile(Settings):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    executor: Annotated[Choice, Picks("pipeline.executors")] = Field(default_factory=lambda: parse("pipeline.executors", "inline"))
    """Where steps run."""
    engine: Annotated[Choice, Picks("engines")]
    """What generates text."""
    trainer: Annotated[Choice, Picks("trainers")]
    """What trains."""
    forward: Forward = Field(default_factory=Forward)
    """What scores."""
    rows_per_shard: int = Field(default=256, ge=1)
    """Rows that are lost at most per worker when a process dies."""
    workers: int = Field(default=1, ge=1)
    """Workers of the stages that need no model."""
    answers: str = "~/.cache/rematch/answers"
    """Folder of the answers that teachers gave, which outlives runs so that none is paid for twice; all workers must see it."""
    reuse: Literal["siblings", "none"] = "siblings"
    """Where a step that has to be built is looked for first: in the runs beside this one, to be linked; or nowhere."""
    reporters: tuple[Annotated[Choice, Picks("reporters")], ...] = ()
    """Who is told the numbers of each round that is finished; nobody unless asked for."""
    overrides: dict[str, dict[str, Any]] = {}
    """By node name: settings of `engine`, `trainer`, `forward`, `rows_per_shard`, `workers` or `answers` that differ there."""

    def at(self, node: str) -> "Profile":
        """The profile as it applies to one node."""
        return _merge(self, self.overrides[node]) if node in self.overrides else self


def _merge(profile: Profile, changes: dict[str, Any]) -> Profile:
    body = plain(profile)
    for section, value in changes.items():
        if isinstance(value, dict) and "kind" not in value and isinstance(body.get(section), dict):
            value = {**body[section], **value}
        body[section] = value
    return Profile.model_validate(body)


def plain(profile: Profile) -> dict[str, Any]:
    """The profile as the YAML it could have been read from."""

    def choice(picked: Choice) -> dict[str, Any]:
        return {"kind": picked.kind, **picked.config.model_dump(mode="json")}

    return {
        **profile.model_dump(mode="json", exclude={"executor", "engine", "trainer", "reporters"}),
        **{name: choice(getattr(profile, name)) for name in ("executor", "engine", "trainer")},
        "reporters": [choice(each) for each in profile.reporters],
    }


def load(path: Path, changes: Sequence[str] = ()) -> Profile:
    """The profile in a YAML file, with `a.b=c` changes applied. Raises Problems that name every field at fault."""
    if not path.is_file():
        raise Refusal(f"{path}: is missing; `rematch run {path.parent} --profile NAME` records a profile again")
    return make(document.read(path), str(path), changes)


def make(body: dict[str, Any], where: str, changes: Sequence[str] = ()) -> Profile:
    """Validate plain data as a profile, with `a.b=c` changes applied."""
    for section in ("executor", "engine", "trainer"):
        if isinstance(body.get(section), str):
            body[section] = {"kind": body[section]}
    for section in ("executor", "forward", "overrides"):
        body.setdefault(section, {"kind": "inline"} if section == "executor" else {})
    for change in changes:
        try:
            body = set_value(body, change)
        except Refusal as error:
            raise Refusal(str(error).replace("--set ", "--set profile.", 1)) from None
    try:
        return Profile.model_validate(body)
    except ValidationError as error:
        raise Problems([f"{where}: {problem}" for problem in explain(error, Profile)]) from None
