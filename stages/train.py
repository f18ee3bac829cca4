"""Trains a model on pairs, groups or demonstrations with an objective, on whatever trainer the profile names.

Log-probabilities under other policies are read from `logprobs` nodes over the same rows; only an objective that compares
whole distributions has the reference model asked while it trains. What the objective computes is its own affair, and where
that ran is the profile's.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import model_validator

import objectives
from pipeline import rows
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.placement import Need
from pipeline.plan import Step
from pipeline.plugin import Choice, Picks, Reads
from pipeline.tools import Tools
from training.job import ExtraResponses, Job, Optimisation

VERSION = 1
MAKES = "policy"
LIVE = frozenset({"token_kl", "masks"})
"""Needs for which the reference model itself is asked."""


class Config(Optimisation):
    model: Annotated[str, Reads("policy")]
    """What training starts from."""
    rows: Annotated[str, Reads("pairs", "candidates", "judged")]
    """What is trained on: pairs, judged groups, or demonstrations (every response of every row)."""
    reference: Annotated[str | None, Reads("logprobs")] = None
    """Log-probabilities of the same rows under the policy that the objective regularises towards."""
    history: Annotated[tuple[str, ...], Reads("logprobs")] = ()
    """The same under earlier policies, the latest first (INPO, MNPO), or under the one that made the rows (GRPO)."""
    extra: Annotated[tuple[str, ...], Reads("candidates")] = ()
    """Further responses beside each row: the first of the row with its id or its prompt's (SELM, XPO, KTO, SRPO)."""
    extra_reference: Annotated[tuple[str, ...], Reads("logprobs")] = ()
    """Log-probabilities of those under the reference, node for node."""
    reference_model: Annotated[str | None, Reads("policy")] = None
    """The reference itself, for an objective that compares whole distributions (TDPO, SparsePO, RRPO)."""
    labels: Annotated[str | None, Reads("policy")] = None
    """A training whose final pair labels this one goes on with (POWER-DL)."""
    optimizer: Annotated[str | None, Reads("policy")] = None
    """A training with `keep_optimizer` whose optimizer state this one goes on with (EGPO restarts both half-steps from one)."""
    keep_optimizer: bool = False
    """Leave the optimizer's state beside the model, for `optimizer` of a later node."""
    objective: Annotated[Choice, Picks("objectives")]
    """What is minimised."""

    @model_validator(mode="after")
    def _given_what_is_needed(self) -> "Config":
        problems = list(_lacks(self)) or list(_has_too_much(self))
        if problems:
            raise ValueError("; ".join(problems))
        if (self.schedule_total_epochs or self.num_train_epochs) < self.num_train_epochs:
            raise ValueError(
                f"schedule_total_epochs: {self.schedule_total_epochs} is less than num_train_epochs {self.num_train_epochs}, "
                "so the learning rate would be 0 before the end; raise it, or leave it out"
            )
        return self


def _wanted(config: Config) -> dict[str, tuple[bool, str, str]]:
    """For each reference field: whether the objective reads it, what it is, and the node that would provide it."""
    needs = objectives.needs(config.objective)
    extras = getattr(config.objective.module, "EXTRAS", 0) if "extra" in needs else 0
    asked = ", ".join(config.extra) or "the extra responses"
    logprobs = f"{{stage: logprobs, model: {config.model}, rows: {config.rows}}}"
    return {
        "reference": ("reference" in needs, objectives.WANTS["reference"], logprobs),
        "history": ("history" in needs, objectives.WANTS["history"], logprobs),
        "extra": (
            bool(extras),
            "a further response beside each row" if extras == 1 else f"{extras} further responses beside each row",
            f"{{stage: generate, model: {config.model}, prompts: ..., n: 1}}",
        ),
        "extra_reference": (
            "extra_reference" in needs,
            objectives.WANTS["extra_reference"],
            f"{{stage: logprobs, model: {config.model}, rows: {asked}}}",
        ),
        "reference_model": (bool(needs & LIVE), "the reference model itself", "such as `policy@start`"),
    }


def _lacks(config: Config) -> Any:
    kind = config.objective.kind
    for field, (needed, what, node) in _wanted(config).items():
        if needed and not getattr(config, field):
            how = f"add a node {node} and name it here" if node.startswith("{") else f"name a policy, {node}"
            yield f"{field}: objective '{kind}' needs {what}; {how}"
    extras = getattr(config.objective.module, "EXTRAS", 0)
    if extras and config.extra and len(config.extra) != extras:
        yield f"extra: objective '{kind}' reads {extras} nodes of extra responses, not {len(config.extra)}; name {extras}"
    if config.extra_reference and len(config.extra_reference) != len(config.extra):
        count = len(config.extra_reference)
        yield f"extra_reference: {count} nodes for {len(config.extra)} of `extra`; name one for each, in the same order"


def _has_too_much(config: Config) -> Any:
    for field, (needed, *_) in _wanted(config).items():
        if getattr(config, field) and not needed:
            yield f"{field}: objective '{config.objective.kind}' reads none; leave the field out"


def reads(config: Config) -> dict[str, Reads]:
    """Rows that the objective can be trained on."""
    return {"rows": Reads(*objectives.tables(config.objective))}


def check(config: Config, inputs: Mapping[str, tuple[Step, ...]]) -> Iterator[str]:
    """Log-probabilities that end before the tokens that are trained on."""
    for slot in ("reference", "history", "extra_reference"):
        for step in inputs.get(slot, ()):
            scored = getattr(step.config, "max_length", None)
            if scored is not None and scored < config.max_length:
                yield (
                    f"{slot}: {step.address} scores {scored} tokens (its max_length), and {config.max_length} are trained on here; "
                    "raise its max_length, or let both read one `$max_length`"
                )


def uses(config: Config) -> frozenset[Need]:
    """The profile's trainer."""
    return frozenset({"trainer"})


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """Tokens are at most these: every response of every row (one of each group) at max_length, in every epoch."""
    count = inputs["rows"]
    responses = (2 if "pairs" in objectives.needs(config.objective) else 1) + len(config.extra)
    tokens = None if count is None else count * responses * config.max_length * config.num_train_epochs
    return {"rows": count, "tokens": tokens}


def run(config: Config, tools: Tools) -> Facts:
    """Facts are the trainer's: counts of rows, steps and tokens, and the first and last step's loss and terms."""
    source = tools.input("rows").path
    if not rows.count(source):
        raise Refusal(f"{tools.address}: {source} has no rows to train on; look at the step that made it")
    scored = [each.path for each in tools.inputs.get("extra_reference", ())]
    extra = [each.path for each in tools.inputs.get("extra", ())]
    job = Job(
        rows=source,
        table=tools.input("rows").manifest.makes,
        reference=tools.input("reference").path if config.reference is not None else None,
        model=tools.model("model"),
        out=tools.out,
        work=tools.work,
        objective=config.objective,
        optimisation=Optimisation(**{name: getattr(config, name) for name in Optimisation.model_fields}),
        seed=tools.seed,
        history=tuple(each.path for each in tools.inputs.get("history", ())),
        extra=tuple(ExtraResponses(path, scored[i] if scored else None) for i, path in enumerate(extra)),
        reference_model=tools.model("reference_model") if config.reference_model is not None else None,
        labels=tools.model("labels").folder if config.labels is not None else None,
        optimizer=tools.model("optimizer").folder if config.optimizer is not None else None,
        keep_optimizer=config.keep_optimizer,
    )
    return tools.profile.trainer.module.train(tools.profile.trainer.config, job, tools)
