"""Kill the whole process tree of a run at random moments, run the same command again, and compare every digest.

Run: python -m benchmarks.kill [--recipe demo] [--kills 20] [--seed 0] [--set a.b=c ...]
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline import artifact


def digests(run: Path) -> dict[str, str]:
    found = {}
    for manifest in sorted(run.glob("[rs]*/[a-z]*/manifest.json")):
        made = artifact.read(manifest.parent, verify=True)
        assert made is not None
        found[str(manifest.parent.relative_to(run))] = made.manifest.digest
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="rematch-kill-"))
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run", options.recipe, "--runs", str(base)]
    command += ["--set", "profile.reuse=none"]  # what was whole is not to be linked into what was killed
    command += [word for change in options.set for word in ("--set", change)]

    began = time.monotonic()
    subprocess.run([*command, "--run", "whole"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    length = time.monotonic() - began
    whole = digests(base / "whole")
    print(f"undisturbed: {length:.0f} s, {len(whole)} artifacts", flush=True)

    draw = random.Random(options.seed)
    kills = resumed_training = 0
    finished = False
    while kills < options.kills:
        if finished:
            shutil.rmtree(base / "killed")
        child = subprocess.Popen([*command, "--run", "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        try:
            # Up to half the length of a run: most attempts die, and the run still ends now and then.
            child.wait(timeout=draw.uniform(0, length / 2))
            finished = True
            assert child.returncode == 0, child.stderr.read().decode() if child.stderr else ""
            assert digests(base / "killed") == whole, "an undisturbed end, and other bytes"
            continue
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            finished = False
        kills += 1
        visible = digests(base / "killed") if (base / "killed").exists() else {}
        assert visible.items() <= whole.items(), "what is visible differs"
        found = sorted((base / "killed").glob("*/.*/work/checkpoint-*"))[-1:]
        drafts = [f"{path.parents[2].name}/{path.parents[1].name.split('.')[1]} at step {int(path.name.split('-')[1])}" for path in found]
        resumed_training += bool(drafts)
        print(f"kill {kills:2}: {len(visible):2} artifacts stand; training checkpoints: {', '.join(drafts) or 'none'}", flush=True)
    subprocess.run([*command, "--run", "killed"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert digests(base / "killed") == whole, "other bytes"
    print(f"{kills} kills, {resumed_training} of them with a training under way: all {len(whole)} digests equal the undisturbed run's")
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
