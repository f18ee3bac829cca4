"""Judging groups by hand: any judge over the scripted grader, with what its fields read made up."""

from pathlib import Path
from typing import Any

from judges import Group, Verdict
from pipeline import plugin
from pipeline.plan import references
from tests.support.steps import folder, tools

GRADER = "tests.support.plugins.grader"
ASKED = ({"role": "user", "content": "Tell me about Paris."},)
FACTS = ("Paris", "Paris is a capital", "Paris is the capital of France", "Paris, capital of France, on the Seine", "no idea")
GROUP = Group("g", ASKED, FACTS, {}, ("round-01/a",) * 4 + ("start/past",))
EIGHT = tuple(
    f"{', '.join(('Paris', 'capital', 'France', 'Seine', 'Louvre')[:facts])} ({i})" for i, facts in enumerate((2, 5, 1, 3, 2, 4, 0, 3))
)


def judge(
    path: Path, settings: dict[str, Any], groups: list[Group], *, grader: dict[str, Any] | None = None, engine: bool = False, seed: int = 7
) -> Any:
    """Verdicts of the judge that `settings` chooses; with `engine`, also the engine that it asked. Models are empty folders."""
    choice = _chosen(settings)
    slots = [slot for slot, _, _ in references(choice.config)]
    (path / "model").mkdir(parents=True, exist_ok=True)
    inputs = {slot: (folder(_named(path, slot)),) for slot in slots}
    given = tools(path / "judged", seed=seed, inputs=inputs, engine={"kind": GRADER, **(grader or {})})
    verdicts: list[Verdict] = choice.module.judge(choice.config, groups, given)
    return (verdicts, given.engine(slots[0])) if engine else verdicts


def _chosen(settings: dict[str, Any]) -> plugin.Choice:
    """The choice, with the model of every judge in it named."""
    body = dict(settings)
    module = plugin.load("judges", body["kind"])
    if "model" in module.Config.model_fields:
        body.setdefault("model", "model")
    if isinstance(body.get("judge"), dict):
        body["judge"] = _chosen(body["judge"])
    if "judges" in body:
        body["judges"] = tuple(_chosen(each) if isinstance(each, dict) else each for each in body["judges"])
    return plugin.parse("judges", body)


def _named(path: Path, slot: str) -> Path:
    made = path / slot.replace(".", "-")
    made.mkdir(exist_ok=True)
    return made


def verdict_of(path: Path, settings: dict[str, Any], group: Group = GROUP, **kwargs: Any) -> Verdict:
    """Of one group."""
    return judge(path, settings, [group], **kwargs)[0]


def shown(request: Any) -> Any:
    """The responses in a question to the scripted grader, in the order in which it saw them."""
    from tests.support.plugins.grader import _responses

    return _responses(request.messages[0]["content"])
