"""Comparisons per second of the PairRM judge: batched by token budget against one at a time, and against plain transformers.

Run it as `python -m benchmarks.pairrm [--hidden-size 256 --layers 4 --groups 6]`. The model is random but shaped like
PairRM: relative throughput depends on its shape, the machine, and the spread of the lengths, not on the weights.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.support.pairrm_shaped import pairrm_shaped, reference


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--hidden-size", type=int, default=256)
    ask.add_argument("--layers", type=int, default=4)
    ask.add_argument("--buckets", type=int, default=256, help="position buckets, 256 in the published model")
    ask.add_argument("--groups", type=int, default=6, help="prompts, of 5 candidates each")
    ask.add_argument("--same", type=float, default=0.0, help="share of the candidates that repeat the first one")
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--dtype", default="float32")
    ask.add_argument("--repeat", type=int, default=2, help="the best of so many runs counts")
    args = ask.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pairrm_shaped(Path(scratch) / "model", hidden_size=args.hidden_size, layers=args.layers, buckets=args.buckets, words=True)
        _measure(args, folder)


def _measure(args: argparse.Namespace, folder: Path) -> None:
    import torch

    from judges.pairrm import network
    from models import Model

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    prompts, candidates = _texts(args.groups, args.same)
    asked = sum(len(group) * (len(group) - 1) for group in candidates)
    print(f"{asked} comparisons, width {args.hidden_size}, {args.layers} layers, {args.device} {args.dtype}")
    print(f"{'way':34} {'comparisons/s':>14} {'ratio':>7}")
    lengths = network.Lengths(1224, 2048)
    base: float | None = None
    if args.device == "cpu":
        plain = reference(folder)
        todo = [(p, a, b) for p, group in zip(prompts, candidates, strict=True) for a in group for b in group if a is not b]
        base = _line("plain transformers, one at a time", asked, args.repeat, lambda: [plain(*each) for each in todo], None)
    with network.load(Model(folder, kind="ranker"), args.device, args.dtype) as loaded:
        one = _line("judge, one at a time", asked, args.repeat, lambda: network.logits(loaded, prompts, candidates, lengths, 1), base)
        for budget in (1024, 2048, 4096, 8192, 16384):
            run = partial(network.logits, loaded, prompts, candidates, lengths, budget)
            _line(f"judge, {budget} tokens a batch", asked, args.repeat, run, base or one)


def _line(name: str, comparisons: int, repeat: int, work: Callable[[], object], base: float | None) -> float:
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    rate = comparisons / min(seconds)
    print(f"{name:34} {rate:14.1f} {rate / (base or rate):7.2f}", flush=True)
    return rate


def _texts(groups: int, same: float) -> tuple[list[str], list[list[str]]]:
    """Prompts of 20 to 100 words and candidates of 20 to 150, so that a comparison has 60 to 400 tokens."""
    draw = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(f"w{draw.randrange(1000)}" for _ in range(draw.randint(low, high)))

    prompts = [text(20, 100) for _ in range(groups)]
    candidates = [[text(20, 150) for _ in range(5)] for _ in range(groups)]
    return prompts, [[group[0] if i and draw.random() < same else each for i, each in enumerate(group)] for group in candidates]


if __name__ == "__main__":
    main()
