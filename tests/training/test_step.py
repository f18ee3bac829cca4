"""One optimizer step of every kind of objective: how it is cut into micro-batches and ranks changes no gradient."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.models import tiny_llama
from tests.support.training_jobs import Gloo, first_step, group_row, job, pair_row
from training.job import Job

pytestmark = pytest.mark.usefixtures("one_thread")
CASES: dict[str, Any] = {
    "dpo": "dpo",
    "sppo": "sppo",
    "sft": "sft",
    "mnpo": "mnpo",
    "selm": {"kind": "selm", "alpha": 0.5},
    "rpo": "rpo",
    "aot": "aot",
    "bco": "bco",
    "kto": "kto",
    "power_dl": "power_dl",
    "wpo": "wpo",
    "spo_degree": "spo_degree",
    "rrpo": "rrpo",
    "mapo": "mapo",
    "sparsepo": "sparsepo",
    "tdpo": {"kind": "sparsepo", "masks": "ones"},
    "pro": "pro",
    "grpo": "grpo",
    "dapo": {"kind": "grpo", "reduction": "dapo"},
}
GROUPS = ("pro", "grpo", "dapo")
CLOSE = dict.fromkeys(CASES, 1e-6) | {"sparsepo": 2e-6}
"""Share of the largest gradient; what learned masks add to theirs nearly cancels, and leaves more float32 noise."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), tied=True)


def made(folder: Path, model: Path, case: str) -> Job:
    if case in GROUPS:
        body, table = [group_row(i) for i in range(9)], "judged"
    else:
        body, table = [pair_row(i, weight=1.0 + i % 3) for i in range(9)], "pairs"
    return job(folder, model, table, body, CASES[case], past=(model, model), batch_size=18)


def apart(whole: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of a gradient, as a share of the largest gradient."""
    assert whole.keys() == other.keys()
    scale = max(value.abs().max().item() for value in whole.values())
    assert scale > 0
    return max((value - other[name]).abs().max().item() for name, value in whole.items()) / scale


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_do_not_change_the_gradient(tmp_path: Path, model: Path, case: str) -> None:
    one = made(tmp_path, model, case)
    whole, told = first_step(one, 10_000)
    for tokens in (1, 200):
        cut, also = first_step(one, tokens)
        assert apart(whole, cut) <= CLOSE[case]
        assert also.pop("state", None) == pytest.approx(told.get("state"))
        assert also == pytest.approx({name: value for name, value in told.items() if name != "state"}, rel=1e-5, abs=1e-6)


@pytest.mark.real
def test_ranks_do_not_change_the_gradient(tmp_path: Path, model: Path) -> None:
    """Two processes over gloo, each with its own micro-batches."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    alone = {case: first_step(made(tmp_path / case, model, case), 10_000) for case in CASES}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd()), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "tests.training.test_step", str(tmp_path / "ranks"), str(model)]
    ranks = [subprocess.Popen(command, env={**environment, "RANK": str(rank), "WORLD_SIZE": "2"}) for rank in (0, 1)]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    for case, (gradient, told) in alone.items():
        assert apart(gradient, load_file(tmp_path / "ranks" / f"{case}.safetensors")) <= CLOSE[case], case
        also = json.loads((tmp_path / "ranks" / f"{case}.json").read_text())
        assert also["loss"] == pytest.approx(told["loss"], rel=1e-5, abs=1e-6), case


def main(folder: Path, model: Path) -> None:
    """One rank of the test above."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for case in CASES:
        gradient, told = first_step(made(folder / f"{case}-{rank}", model, case), 200, worker=Gloo)
        if rank == 0:
            save_file({name: value.contiguous() for name, value in gradient.items()}, folder / f"{case}.safetensors")
            (folder / f"{case}.json").write_text(json.dumps(told))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads now and then abort a process that ends in good order


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
