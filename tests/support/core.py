"""Small recipes over the test plugins, and the profile they run under."""

from pathlib import Path
from typing import Any

from pipeline import artifact, recipe
from pipeline.plan import Step, plan
from pipeline.profile import Profile
from pipeline.recipe import Recipe

BODY: dict[str, Any] = {
    "name": "core",
    "rounds": 3,
    "start": {"words": {"stage": "tests.support.plugins.words", "take": 20}},
    "round": {
        "loud": {"stage": "tests.support.plugins.shout", "prompts": "words"},
        "words": {"stage": "tests.support.plugins.shout", "prompts": "words@prev", "suffix": "?"},
        "both": {"stage": "tests.support.plugins.shout", "prompts": ["loud", "loud@all"]},
    },
}


def small(**changes: Any) -> Recipe:
    """The small recipe; `changes` are `section__node__field=value`, or top-level fields."""
    body = {**BODY, "start": {**BODY["start"]}, "round": {**BODY["round"]}}
    for path, value in changes.items():
        section, *rest = path.split("__")
        if rest:
            body[section][rest[0]] = {**body[section].get(rest[0], {}), **({rest[1]: value} if rest[1:] else value)}
        else:
            body[section] = value
    return recipe.make(body, "test")


def profile(**changes: Any) -> Profile:
    return Profile.model_validate(
        {"name": "test", "engine": "canned", "trainer": "tests.support.plugins.idle", "rows_per_shard": 4, "reuse": "none", **changes}
    )


def steps(of: Recipe) -> list[Step]:
    return plan(of, profile())


def digests(folder: Path) -> dict[str, str]:
    """Digest of every artifact below a run, after re-hashing all files."""
    found = {}
    for path in sorted(folder.glob("[rs]*/[a-z]*/manifest.json")):
        made = artifact.read(path.parent, verify=True)
        assert made is not None
        found[str(path.parent.relative_to(folder))] = made.manifest.digest
    return found
