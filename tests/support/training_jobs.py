"""Trainings small enough for a test: rows of words, and whatever else an objective needs beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

import objectives
from models import Model, chat, score
from models import forward as forwards
from pipeline import plugin, rows
from training import batches, data, loop, state
from training.examples import Examples
from training.job import ExtraResponses, Job, Optimisation
from training.policy import Policy, reference_of

WORDS = ("banana", "fig", "cherries", "kiwi", "a", "pomegranate", "plum", "dates", "lime", "melon", "nut", "pear")


def pair_row(i: int, **more: Any) -> dict[str, Any]:
    word = WORDS[i % len(WORDS)]
    row = {
        "id": f"row-{i:03d}",
        "prompt_id": f"prompt-{i:03d}",
        "prompt": [{"role": "user", "content": f"sort {i}: {word}"}],
        "chosen": [{"role": "assistant", "content": "".join(sorted(word))}],
        "rejected": [{"role": "assistant", "content": word + "?"}],
        "chosen_score": 1.0 + i % 3,
        "rejected_score": -0.5 * (i % 4),
        "chosen_win_rate": 0.5 + (i % 5) / 10,
        "rejected_win_rate": 0.5 - (i % 4) / 10,
        "label": 1.0,
        "weight": 1.0,
    }
    return {**row, **more}


def group_row(i: int) -> dict[str, Any]:
    """A judged group of 3 or 4 responses of different lengths."""
    word = WORDS[i % len(WORDS)]
    texts = [word, word[::-1], "".join(sorted(word)), word + "!"][: 3 + i % 2]
    prompt = [{"role": "user", "content": f"sort {i}: {word}"}]
    return {
        "id": f"row-{i:03d}",
        "prompt": prompt,
        "responses": [{"text": text} for text in texts],
        "scores": [0.5, 0.0, 2.0, 0.25][: len(texts)],
    }


def _logprobs(folder: Path, model: Path, table: Any, kind: str) -> Path:
    """The artifact of `table`'s log-probabilities under `model`."""
    folder.mkdir()
    with forwards.opened(Model(model), "float32", "cpu") as opened:
        scored, _ = score.score(opened, chat.load_tokenizer(model), table, kind, None, 300)
    rows.write(folder, "logprobs", [scored])
    return folder


def job(
    folder: Path, model: Path, table: str, body: list[dict[str, Any]], objective: Any, past: Sequence[Path] = (), **settings: Any
) -> Job:
    """A job over `body`, with all that the objective needs; its history is under the models `past`."""
    for name in ("rows", "out", "work"):
        (folder / name).mkdir(parents=True)
    made = rows.from_pylist(table, body)
    rows.write(folder / "rows", table, [made])
    choice = plugin.parse("objectives", objective)
    needs, kind = objectives.needs(choice), "pairs" if table == "pairs" else "candidates"
    extras: list[ExtraResponses] = []
    for e in range(getattr(choice.module, "EXTRAS", 0) if "extra" in needs else 0):
        (folder / f"extra-{e}").mkdir()
        more = rows.from_pylist("candidates", [_extra_row(row, e) for row in body])
        rows.write(folder / f"extra-{e}", "candidates", [more])
        known = _logprobs(folder / f"extra-{e}-reference", model, more, "candidates") if "extra_reference" in needs else None
        extras.append(ExtraResponses(folder / f"extra-{e}", known))
    defaults = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 128}
    return Job(
        rows=folder / "rows",
        table=table,
        reference=_logprobs(folder / "reference", model, made, kind) if "reference" in needs else None,
        model=Model(model),
        out=folder / "out",
        work=folder / "work",
        objective=choice,
        optimisation=Optimisation(**{**defaults, **settings}),
        seed=7,
        history=tuple(_logprobs(folder / f"history-{i}", each, made, kind) for i, each in enumerate(past)) if "history" in needs else (),
        extra=tuple(extras),
        reference_model=Model(model) if needs & {"token_kl", "masks"} else None,
    )


def _extra_row(row: dict[str, Any], e: int) -> dict[str, Any]:
    number, id = row["id"][-2:], row.get("prompt_id", row["id"])
    text = f"maybe {e} {number}"
    return {"id": id, "prompt": row["prompt"], "responses": [{"text": text}], "meta": {"degree": int(number) % 4}}


def pairs_job(folder: Path, model: Path, objective: Any = "dpo", count: int = 20, **settings: Any) -> Job:
    return job(folder, model, "pairs", [pair_row(i) for i in range(count)], objective, **settings)


def digests(folder: Path) -> dict[str, str]:
    """Of every file that a training left."""
    return {str(path.relative_to(folder)): blake3(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


class Still:
    """A worker that keeps the gradient of one step and moves nothing."""

    share, shares, rank, device = 0, 1, 0, "cpu"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def forward(self, laid: batches.Layout) -> dict[str, torch.Tensor]:
        return self._policy(laid)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> float:
        return 0.0

    def total(self, values: torch.Tensor) -> list[float]:
        return values.tolist()


class Gloo(Still):
    """The same as one of several processes, whose gradients add up to the step's."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.rank = self.share = torch.distributed.get_rank()
        self.shares = torch.distributed.get_world_size()

    def step(self, learning_rate: float) -> float:
        for parameter in self._policy.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.distributed.all_reduce(parameter.grad)
        return 0.0

    def total(self, values: torch.Tensor) -> list[float]:
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed.tolist()


def first_step(
    made: Job, tokens: int, dtype: str = "float32", worker: type[Still] = Still, examples: Examples | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The gradient and the metrics of the whole first step, cut into micro-batches of at most `tokens`; the model is near the reference."""
    examples = data.read(made) if examples is None else examples
    policy = Policy(forwards.read(made.model, dtype), made, reference_of(made, dtype, "cpu"))
    with torch.no_grad():  # at the reference itself, several losses have no slope
        draw = torch.Generator().manual_seed(1)
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw, dtype=torch.float32).to(parameter.dtype)
    training = state.begin(made, examples, worker(policy), tokens, None)
    _, units = next(loop.step_units(made.optimisation, len(examples.units_UW), made.seed))
    found, _ = loop.take_step(training, units, "here", 1e-6, False)
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}, found
