"""Rows per second, peak memory and orchestration tax of generate, judge and pair at 50,000 and 200,000 prompts.

Scripted responses, five a prompt, so that what is measured is the pipeline and not a model. Each size runs in a
process of its own, whose peak memory the kernel reports. Run: python -m benchmarks.scale [--prompts N ...]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = {
    "name": "scale",
    "rounds": 1,
    "start": {
        "policy": {"stage": "init", "model": {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}},
        "prompts": {"stage": "prompts"},
    },
    "round": {
        "candidates": {"stage": "generate", "model": "policy", "prompts": "prompts", "n": 5},
        "judged": {"stage": "judge", "candidates": "candidates", "judge": {"kind": "length"}},
        "pairs": {"stage": "pair", "judged": "judged", "rule": {"kind": "best_vs_worst"}},
    },
}


def measure(prompts: int) -> dict[str, float]:
    from pipeline import artifact, recipe, run
    from pipeline.profile import Profile

    body = {**RECIPE, "start": {**RECIPE["start"], "prompts": {"stage": "prompts", "source": {"kind": "jsonl", "path": _prompts(prompts)}}}}
    profile = Profile.model_validate({"name": "scale", "engine": "canned", "trainer": "torch", "rows_per_shard": 2048})
    with tempfile.TemporaryDirectory() as folder:
        run.run(recipe.make({**body, "rounds": 0}, "scale"), profile, Path(folder) / "r")
        began = time.perf_counter()
        run.run(recipe.make(body, "scale"), profile, Path(folder) / "r")
        wall = time.perf_counter() - began
        found = {"prompts": prompts, "wall_s": wall}
        for node in ("candidates", "judged", "pairs"):
            made = artifact.read(Path(folder) / "r/round-01" / node)
            assert made is not None
            found[f"{node}_rows"] = made.manifest.facts["rows"]
            found[f"{node}_s"] = made.manifest.provenance["seconds"]
    found["outside_share"] = 1 - sum(found[f"{node}_s"] for node in ("candidates", "judged", "pairs")) / wall
    found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def _prompts(count: int) -> str:
    path = Path(tempfile.gettempdir()) / f"rematch-scale-{count}.jsonl"
    with path.open("w") as file:
        for i in range(count):
            file.write(json.dumps({"prompt": f"Question {i}: what is {i} times {i % 97}? Explain your answer briefly."}) + "\n")
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, nargs="*", default=[50_000, 200_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    print(f"{'prompts':>8} {'generate':>9} {'judge':>9} {'pair':>9}  rows/s   {'peak GB':>8} {'outside stages':>15}")
    for prompts in options.prompts:
        done = subprocess.run([sys.executable, __file__, "--one", str(prompts)], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rates = [found[f"{node}_rows"] / found[f"{node}_s"] for node in ("candidates", "judged", "pairs")]
        print(
            f"{prompts:>8} " + " ".join(f"{rate:>9,.0f}" for rate in rates) + f"{found['peak_gb']:>18.2f} {found['outside_share']:>15.2%}"
        )


if __name__ == "__main__":
    main()
