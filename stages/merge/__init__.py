"""Makes a model out of the weights of others: Accelerated Preference Optimization's extrapolation, or an average.

`extrapolate` is w + alpha (w - w_previous), in float32, cast to the dtype of `model` (arXiv:2410.06293, which was not read
in full: formula and alpha are from summaries). There `model` is what training left, `previous` what training left a round
before, both before any extrapolation (`policy_hat`, `policy_hat@prev`; in the start both nodes adopt the same model), and
what comes out generates and is the reference of the next round. `average` is a model soup (arXiv:2203.05482).
Runs on the CPU, a piece of a tensor at a time; only the canary at its end loads the model.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline import model as models
from pipeline.artifact import Facts
from pipeline.errors import Refusal
from pipeline.plugin import Gate, Reads, Settings
from pipeline.tools import Tools

VERSION = 1
MAKES = "policy"


class Config(Settings):
    model: Annotated[str, Reads("policy")]
    """What was trained last: it gives layout, dtypes, tokenizer and configuration."""
    how: Literal["extrapolate", "average"] = "extrapolate"
    """Away from `previous`, or to the mean with `others`."""
    previous: Annotated[str | None, Reads("policy")] = None
    """Extrapolation only: where `model` came from, such as `policy_hat@prev`."""
    alpha: float = Field(0.3, ge=0, allow_inf_nan=False)
    """Extrapolation only: how far to go on beyond `model`; 0 is `model` itself, and the paper's theory holds below 1."""
    others: Annotated[tuple[str, ...], Reads("policy")] = ()
    """Average only: the other models."""
    weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    """Average only: of `model` and then of `others`, in any unit. None: all the same."""
    max_change: Annotated[float | None, Gate()] = Field(None, gt=0)
    """The step fails if the weights move further from `model` than this, as a share of their norm. None: any distance. A gate."""

    @model_validator(mode="after")
    def _one_way(self) -> "Config":
        if self.how == "extrapolate":
            if self.previous is None:
                raise ValueError("previous: is required to extrapolate; name what training left a round before, such as `policy_hat@prev`")
            if self.others or self.weights is not None:
                raise ValueError("others and weights belong to `how: average`; leave them out")
        elif self.previous is not None or "alpha" in self.model_fields_set:
            raise ValueError("previous and alpha belong to `how: extrapolate`; leave them out")
        return self


def run(config: Config, tools: Tools) -> Facts:
    """Facts: tensors, parameters, how many tensors were copied (whole numbers, flags), `relative_change` of the weights."""
    from models import folder as model_folder
    from models import weights as model_weights
    from stages.merge import arithmetic, tensors

    read = (*tools.inputs["model"], *tools.inputs.get("previous", ()), *tools.inputs.get("others", ()))
    folders = [model_weights.folder_of(models.of(each)) for each in read]
    names = [f"{each.path.parent.name}/{each.path.name}" for each in read]
    _same_tokenizer(folders, names, tools.address)
    if config.how == "extrapolate":
        combine = partial(arithmetic.beyond, alpha=config.alpha)
    else:
        weights = (1.0,) * len(read) if config.weights is None else config.weights
        if len(weights) != len(read):
            raise Refusal(
                f"{tools.address}: weights: {len(weights)} of them for {len(read)} models; give one to `model` and each of `others`"
            )
        combine = partial(arithmetic.average, weights=weights)
    try:
        facts = tensors.merge(folders, names, combine, tools.out)
    except Refusal as error:
        raise Refusal(f"{tools.address}: {error}") from None
    change = facts["relative_change"]
    if not change <= (config.max_change or float("inf")):
        raise Refusal(
            f"{tools.address}: the weights would move by {change:.3g} of their norm, at most {config.max_change} is allowed; "
            "lower alpha, or look at what training did"
        )
    shutil.copyfile(folders[0] / "config.json", tools.out / "config.json")
    model_folder.carry(folders[0], tools.out)
    model_folder.canary(tools.out, "cpu")
    return facts


def _same_tokenizer(folders: list[Path], names: list[str], address: str) -> None:
    from models import chat

    found = [chat.fingerprint(chat.load_tokenizer(folder)) for folder in folders]
    for name, fingerprint in zip(names[1:], found[1:], strict=True):
        if fingerprint != found[0]:
            raise Refusal(f"{address}: {names[0]} and {name} have different tokenizers; merge models that come from one")
