"""What can befall a run: a tiny recipe, and how its input, its folder or its disk goes wrong. Nothing is mocked."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import cli
from pipeline.recipe import set_value
from tests.support.models import tiny_llama

ROOT = Path(__file__).parents[2]
PROFILE = {"name": "test", "engine": "canned", "trainer": "torch", "rows_per_shard": 4, "reuse": "none"}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "rounds": 2,
    "start": {
        "policy": {"stage": "adopt", "model": "model"},
        "prompts": {"stage": "prompts", "source": {"kind": "jsonl", "path": "prompts.jsonl"}},
    },
    "round": {
        "candidates": {"stage": "generate", "model": "policy", "prompts": "prompts", "n": 3, "max_new_tokens": 64},
        "judged": {"stage": "judge", "candidates": "candidates", "judge": {"kind": "length"}},
        "pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "best_vs_worst"}},
    },
}
RUN = "run tiny.yaml -p test.yaml"
Act = Callable[[Path], None]
"""Something done to the folder in which the command runs."""
Lasting = Callable[[Path], AbstractContextManager[None]]
"""Something that lasts while the command runs."""


def lay_out(here: Path) -> None:
    """A model folder that holds no model (the canned engine reads none), prompts, a recipe and a profile."""
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text("{}")
    (here / "model" / "model.safetensors").write_bytes(b"")
    write_prompts(here)
    write(here / "tiny.yaml", RECIPE)
    write(here / "test.yaml", PROFILE)


def write(path: Path, body: dict[str, Any], *changes: str) -> None:
    for change in changes:
        body = set_value(body, change)
    path.write_text(yaml.safe_dump(body, sort_keys=False))


def write_prompts(here: Path) -> None:
    rows = [{"prompt": f"say {i}", "answer": str(i)} for i in range(10)]
    (here / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def real_model(here: Path, **settings: Any) -> None:
    tiny_llama(here / "model", **settings)


# What breaks.


def other_width(here: Path) -> None:
    path = here / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 64}))


def bad_line(here: Path) -> None:
    lines = (here / "prompts.jsonl").read_text().splitlines()
    lines[6] = lines[6][:-1]
    (here / "prompts.jsonl").write_text("\n".join(lines))


def flip(path: str) -> Act:
    """Change a byte of a Parquet file."""

    def act(here: Path) -> None:
        column = pq.read_metadata(here / path).row_group(0).column(0)
        data = bytearray((here / path).read_bytes())
        # The last byte of the column's last page: a header holds bytes that nothing checks.
        data[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1] ^= 4
        (here / path).write_bytes(data)

    return act


def cut(path: str, count: int = 7) -> Act:
    return lambda here: (here / path).write_bytes((here / path).read_bytes()[:-count]) and None


def parquet(column: str) -> Act:
    return lambda here: pq.write_table(pa.table({column: [f"say {i}" for i in range(10)]}), here / "prompts.parquet")


def move(old: str, new: str) -> Act:
    return lambda here: (here / old).rename(here / new) and None


def text(path: str, content: str = "") -> Act:
    return lambda here: (here / path).write_text(content) and None


def remove(path: str) -> Act:
    return lambda here: (here / path).unlink()


def done(command: str) -> Act:
    """Another command, which ends well."""

    def act(here: Path) -> None:
        assert cli.call(shlex.split(command)) == 0

    return act


def both(*acts: Act) -> Act:
    def act(here: Path) -> None:
        for each in acts:
            each(here)

    return act


# What lasts.


def mounted(*arguments: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    made = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")


def small_disk(size: str, path: str = "runs") -> Lasting:
    """A disk of its own under the runs; when the mishap is over, it has grown."""

    @contextmanager
    def lasts(here: Path) -> Iterator[None]:
        place = str(here / path)
        Path(place).mkdir()
        mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
        yield
        subprocess.run(["mount", "-o", "remount,size=200m", place], check=True)

    return lasts


def read_only(path: str) -> Lasting:
    """Root may write where permissions forbid it, but not to a read-only mount."""

    @contextmanager
    def lasts(here: Path) -> Iterator[None]:
        place = here / path
        if os.geteuid() != 0:
            place.chmod(0o555)
            yield
            place.chmod(0o755)
            return
        mounted("--bind", str(place), str(place))
        mounted("-o", "remount,bind,ro", str(place))
        yield
        subprocess.run(["umount", str(place)], check=True)

    return lasts


DENIED = "Read-only file system" if os.geteuid() == 0 else "Permission denied"
HOLDER: list[int] = []
"""The process that `another_process` started."""


@contextmanager
def another_process(here: Path) -> Iterator[None]:
    """The same command, stopped in the middle of a step; it goes on when the mishap is over."""
    process = started(here, f"{RUN} --json", "")
    until = time.monotonic() + 60
    while not list(here.glob("runs/tiny/start/.nap.*/work/shards/out/rows-*.parquet")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    HOLDER[:] = [process.pid]
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["built"][-1] == "start/nap"


def started(here: Path, command: str, prologue: str) -> subprocess.Popen[str]:
    code = f"{prologue}\nfrom pipeline.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *shlex.split(command)],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def limit(size: int) -> str:
    """No file may grow above `size` bytes: what a full disk is to a process."""
    return (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    )


@contextmanager
def killed_in_a_step(here: Path) -> Iterator[None]:
    """A process that dies on row 9 of 10, and one of the shards that it had finished is cut short."""
    (here / "kill").mkdir()
    (here / "kill" / "start.loud.p000009").touch()
    process = started(here, RUN, f"import os; os.environ['REMATCH_TEST_KILL'] = {str(here / 'kill')!r}")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    first, _ = sorted(here.glob("runs/tiny/start/.loud.*/work/shards/out/rows-*.parquet"))
    first.write_bytes(first.read_bytes()[:-7])
    yield
