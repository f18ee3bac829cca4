"""The canary: a checkpoint carries log-probabilities of a few fixed sequences, and an engine that loads it must give them back.

Engines have served wrong weights without a word (vLLM's `reload_weights` on tied embeddings keeps the old output
layer), and the samples look plausible. The trainer writes the canary; every load checks it. It says what kind of model it
measures: of a policy, log-probabilities.
"""

import json
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import Refusal
from pipeline.model import CANARY, POLICY, Model

T = TypeVar("T")
Logprobs = list[list[float]]
log = logging.getLogger("rematch.canary")

TOLERANCE = {"float32": 0.05, "bfloat16": 0.2, "float16": 0.2}
"""Largest difference of a token's log-probability that counts as arithmetic, by the dtype of the engine's weights."""


class WrongWeights(Refusal):
    """The engine does not compute the model that was stored."""


def sequences(vocab_size: int, *, count: int = 8, length: int = 24) -> list[list[int]]:
    """The fixed sequences of a model with this vocabulary: the same ids on every machine."""
    draw = random.Random(vocab_size)
    return [[draw.randrange(vocab_size) for _ in range(length)] for _ in range(count)]


def measure(model: Any, sequences: Sequence[Sequence[int]]) -> Logprobs:
    """Log-probability of each token but the first of each sequence, by a plain float32-softmax forward of a torch model."""
    import torch

    device = next(model.parameters()).device
    found: Logprobs = []
    with torch.inference_mode():
        for ids in sequences:
            ids_T = torch.tensor(ids, device=device)
            logps_TV = torch.log_softmax(model(input_ids=ids_T[None], use_cache=False).logits[0, :-1].float(), dim=-1)
            found.append(logps_TV.gather(1, ids_T[1:, None])[:, 0].tolist())
    return found


def write(folder: Path, sequences: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]]) -> None:
    """Store the canary of a policy in its folder. `logprobs`: one float per token except the first, natural log, float32 weights."""
    for ids, values in zip(sequences, logprobs, strict=True):
        if len(values) != len(ids) - 1:
            raise ValueError(f"canary: {len(values)} log-probabilities for a sequence of {len(ids)} tokens; {len(ids) - 1} are due")
    body = {
        "kind": POLICY,
        "sequences": [list(ids) for ids in sequences],
        "logprobs": [[float(v) for v in values] for values in logprobs],
    }
    (folder / CANARY).write_text(json.dumps(body))


def kind(folder: Path) -> str | None:
    """The kind of model that the canary of a folder measures, or None if its maker stored none. One that does not say is a policy's."""
    path = folder / CANARY
    return json.loads(path.read_text()).get("kind", POLICY) if path.is_file() else None


def check_kind(model: Model) -> None:
    """Raises Refusal if a model is to be loaded as another kind than its canary measures."""
    measured = kind(model.folder)
    if measured not in (None, model.kind):
        raise Refusal(
            f"{model.folder}: its canary is that of a {measured}, and it is loaded as a {model.kind}; "
            f"write `as: {measured}` where it is adopted, or name another model"
        )


def read(folder: Path) -> tuple[list[list[int]], Logprobs] | None:
    """The sequences and log-probabilities of a model folder, or None if its maker stored none."""
    path = folder / CANARY
    if not path.is_file():
        return None
    body = json.loads(path.read_text())
    return body["sequences"], body["logprobs"]


def difference(stored: Sequence[Sequence[float]], measured: Sequence[Sequence[float]]) -> float:
    """Largest difference of a token's log-probability; infinite if a value is not a number or the shapes disagree."""
    if [len(values) for values in stored] != [len(values) for values in measured]:
        return float("inf")
    gaps = [abs(a - b) for one, other in zip(stored, measured, strict=True) for a, b in zip(one, other, strict=True)]
    return float("inf") if any(gap != gap for gap in gaps) else max(gaps, default=0.0)


def check(folder: Path, measured: Sequence[Sequence[float]], tolerance: float) -> float:
    """The largest difference between `measured` and what the folder stores. Raises WrongWeights above `tolerance`."""
    stored = read(folder)
    assert stored is not None, f"{folder} has no canary"
    gap = difference(stored[1], measured)
    if gap > tolerance:
        raise WrongWeights(
            f"{folder}: the engine does not reproduce this checkpoint: log-probabilities of its canary differ by up to {gap:.3g}, "
            f"tolerance {tolerance:g}; run `rematch verify`, and if the files are intact, use another engine or dtype"
        )
    return gap


def load(
    model: Model, start: Callable[[], T], stop: Callable[[T], None], measure: Callable[[T, list[list[int]]], Logprobs], dtype: str
) -> T:
    """Start an engine over a policy and check it; one that fails is stopped and started once more before WrongWeights is raised."""
    check_kind(model)
    folder, canary = model.folder, read(model.folder)
    if canary is None:
        log.info("%s: has no canary, so the loaded weights are not checked", folder)
        return start()
    try:
        return _checked(folder, canary[0], start, stop, measure, dtype)
    except WrongWeights as error:
        log.warning("%s; loading it again", error)
    return _checked(folder, canary[0], start, stop, measure, dtype)


def _checked(
    folder: Path,
    sequences: list[list[int]],
    start: Callable[[], T],
    stop: Callable[[T], None],
    measure: Callable[[T, list[list[int]]], Logprobs],
    dtype: str,
) -> T:
    engine = start()
    good = False
    try:
        gap = check(folder, measure(engine, sequences), TOLERANCE[dtype])
        good = True
    finally:
        if not good:
            stop(engine)
    log.info("%s: canary reproduced within %.2g", folder, gap)
    return engine
