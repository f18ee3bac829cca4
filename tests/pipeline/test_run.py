"""Runs resume, refuse, fork and retire; nothing is lost, overwritten or served stale."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import artifact, rows, run
from pipeline.build import Context, build
from pipeline.errors import Problems, Refusal
from pipeline.executors.inline import InlinePool
from tests.support.core import digests, profile, small, steps
from tests.support.mishaps import flip


def test_a_second_run_builds_nothing(tmp_path):
    assert len(run.run(small(), profile(), tmp_path / "r")) == 10
    assert run.run(small(), profile(), tmp_path / "r") == []
    assert {each.state for each in run.status(steps(small()), tmp_path / "r", verify=True).values()} == {"done"}
    assert not list((tmp_path / "r").rglob(".*"))


def test_more_rounds_build_only_the_new_ones(tmp_path):
    run.run(small(rounds=2), profile(), tmp_path / "r")
    assert run.run(small(), profile(), tmp_path / "r") == ["round-03/loud", "round-03/words", "round-03/both"]


def test_how_rows_are_split_changes_no_byte(tmp_path):
    for size in (1, 7, 256):
        run.run(small(), profile(rows_per_shard=size), tmp_path / str(size))
    assert digests(tmp_path / "1") == digests(tmp_path / "7") == digests(tmp_path / "256")


def test_a_changed_setting_is_named_and_refused_and_nothing_moves(tmp_path):
    run.run(small(), profile(), tmp_path / "r")
    before = digests(tmp_path / "r")
    with pytest.raises(Problems) as caught:
        run.run(small(round__loud__suffix="?"), profile(), tmp_path / "r")
    text = str(caught.value)
    assert "round-01/loud: is stale: suffix: (default) -> '?'" in text
    assert "3 more that read them are stale too" in text and "--from round-01/loud" in text
    assert digests(tmp_path / "r") == before


def test_starting_from_a_step_rebuilds_it_and_its_readers_and_keeps_the_old(tmp_path):
    run.run(small(), profile(), tmp_path / "r")
    before = digests(tmp_path / "r")
    assert run.run(small(), profile(), tmp_path / "r", start_at="round-02/loud") == ["round-02/loud", "round-02/both", "round-03/both"]
    assert run.run(small(), profile(), tmp_path / "r", start_at="round-03") == ["round-03/loud", "round-03/words", "round-03/both"]
    assert digests(tmp_path / "r") == before
    assert len(list((tmp_path / "r/attic").rglob("manifest.json"))) == 6
    with pytest.raises(Refusal, match="no such round or step; rounds: round-01, round-02, round-03, start"):
        run.run(small(), profile(), tmp_path / "r", start_at="round-09")


def test_a_fork_shares_by_hard_link_what_its_change_does_not_touch(tmp_path):
    run.run(small(), profile(), tmp_path / "r")
    forked, shared = run.fork(tmp_path / "r", tmp_path / "f", at=2, changes=["round.loud.suffix=huh"])
    assert shared == ["start/words", "round-01/loud", "round-01/words", "round-01/both", "round-02/words", "round-03/words"]
    data = "start/words/data-00000.parquet"
    assert os.stat(tmp_path / "r" / data).st_ino == os.stat(tmp_path / "f" / data).st_ino
    assert run.run(forked, profile(), tmp_path / "f") == ["round-02/loud", "round-02/both", "round-03/loud", "round-03/both"]
    with pytest.raises(Refusal, match="exists already"):
        run.fork(tmp_path / "r", tmp_path / "f", at=2, changes=[])


def test_an_input_that_was_rebuilt_with_other_bytes_makes_its_readers_stale(tmp_path):
    run.run(small(), profile(), tmp_path / "r")
    run.retire(tmp_path / "r", ["start/words"])
    step = steps(small())[0]
    with artifact.draft(tmp_path / "r/start/words", step.key) as made:
        (made.out / "data-00000.parquet").write_bytes(b"other")
        artifact.publish(
            made, tmp_path / "r/start/words", makes="prompts", key=step.key, identity=step.identity, inputs={}, facts={}, provenance={}
        )
    with pytest.raises(Problems, match="round-01/loud: is stale: its input 'prompts' was rebuilt since"):
        run.run(small(), profile(), tmp_path / "r")


def test_flipped_bytes_are_found_and_refused(tmp_path):
    run.run(small(rounds=1), profile(), tmp_path / "r")
    file = tmp_path / "r/round-01/loud/data-00000.parquet"
    flip(file.relative_to(tmp_path).as_posix())(tmp_path)
    assert run.status(steps(small(rounds=1)), tmp_path / "r", verify=True)["round-01/loud"].state == "corrupt"
    # Sizes agree, so a run finds it where the bytes are next read: by their digest, the first time a process reads them,
    code = (
        "import sys; from tests.support.core import *; from pipeline import run\n"
        "run.run(small(), profile(), Path(sys.argv[1]), start_at='round-01/both')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], capture_output=True, text=True)
    assert "its digest differs from its manifest's" in done.stderr
    # and by their page checksums after that.
    with pytest.raises(Refusal, match="checksum verification failed"):
        run.run(small(), profile(), tmp_path / "r")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Refusal, match="has .* bytes, its manifest says"):
        run.run(small(rounds=1), profile(), tmp_path / "r")


def test_page_checksums_find_a_flip_that_digests_were_not_asked_about(tmp_path):
    run.run(small(rounds=0), profile(), tmp_path / "r")
    folder = tmp_path / "r/start/words"
    clean = (folder / "data-00000.parquet").read_bytes()
    silent = 0
    truth = rows.read(folder)
    # The footer has no checksum of its own: a flip there is found by the artifact's digest.
    footer = len(clean) - 8 - int.from_bytes(clean[-8:-4], "little")
    for at in range(4, footer, 5):
        data = bytearray(clean)
        data[at] ^= 16
        (folder / "data-00000.parquet").write_bytes(data)
        try:
            silent += rows.read(folder) != truth
        except artifact.CorruptArtifact:
            continue
    assert silent == 0


def test_a_truncated_shard_is_rebuilt_not_read(tmp_path):
    run.run(small(rounds=1), profile(), tmp_path / "whole")
    run.run(small(rounds=0), profile(), tmp_path / "r")
    with pytest.raises(subprocess.CalledProcessError):
        _run_killed(tmp_path / "r", tmp_path / "kill", "round-01.loud.p000013")
    shards = sorted((tmp_path / "r/round-01").glob(".loud.*/work/shards/out/rows-*.parquet"))
    assert len(shards) == 3
    shards[1].write_bytes(shards[1].read_bytes()[:-7])
    run.run(small(rounds=1), profile(), tmp_path / "r")
    assert digests(tmp_path / "r") == digests(tmp_path / "whole")


def _run_killed(folder: Path, markers: Path, *addresses: str) -> None:
    markers.mkdir(exist_ok=True)
    for address in addresses:
        (markers / address).touch()
    code = "import sys; from tests.support.core import *; from pipeline import run; run.run(small(rounds=1), profile(), Path(sys.argv[1]))"
    environment = {**os.environ, "REMATCH_TEST_KILL": str(markers)}
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment, capture_output=True)


@pytest.mark.parametrize("row", [0, 4, 11, 19])
@pytest.mark.parametrize("node", ["loud", "words", "both"])
def test_killed_on_any_row_it_goes_on_to_the_same_bytes(tmp_path, node, row):
    run.run(small(rounds=1), profile(), tmp_path / "whole")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _run_killed(tmp_path / "r", tmp_path / "kill", f"round-01.{node}.p{row:06d}")
    assert caught.value.returncode == -9
    assert f"round-01/{node}" not in digests(tmp_path / "r")
    run.run(small(rounds=1), profile(), tmp_path / "r")
    assert digests(tmp_path / "r") == digests(tmp_path / "whole")


def test_a_second_process_is_told_who_holds_the_run(tmp_path):
    with run.locked(tmp_path / "r"), pytest.raises(Refusal, match=f"is held by process {os.getpid()} on "):
        run.run(small(), profile(), tmp_path / "r")


def test_two_builders_of_one_step_are_one_too_many(tmp_path):
    step = steps(small())[0]
    context = Context(run=tmp_path, profile=profile())
    with artifact.draft(step.folder(tmp_path), step.key), pytest.raises(Refusal, match="is being built by another process"):
        build(step, context, InlinePool())


def test_a_full_disk_is_one_sentence_and_finished_parts_stay(tmp_path):
    run.run(small(rounds=1), profile(), tmp_path / "whole")
    code = (
        "import sys, resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from tests.support.core import *; from pipeline import run, errors\n"
        "run.run(small(rounds=0), profile(), Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "try: run.run(small(rounds=1), profile(), Path(sys.argv[1]))\n"
        "except errors.Refusal as error: print(error); sys.exit(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "the disk is full below" in done.stdout and "finished parts are kept" in done.stdout
    run.run(small(rounds=1), profile(), tmp_path / "r")
    assert digests(tmp_path / "r") == digests(tmp_path / "whole")


def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="cannot be written"):
        run.run(small(), profile(), tmp_path / "file" / "r")


def test_scripted_output_never_passes_as_a_models(tmp_path):
    from pipeline.plan import plan

    body = small(
        start__policy={"stage": "init", "model": {"model_type": "llama"}},
        round__candidates={"stage": "generate", "model": "policy", "prompts": "words"},
    )
    keys = {kind: {s.address: s.key for s in plan(body, profile(engine=kind))} for kind in ("canned", "transformers", "vllm")}
    assert keys["transformers"] == keys["vllm"] != keys["canned"]


def test_the_run_says_what_it_was(tmp_path):
    run.run(small(rounds=1), profile(), tmp_path / "r")
    recipe, _ = run.recorded(tmp_path / "r")
    assert recipe == small(rounds=1)
    run.run(small(rounds=2), profile(), tmp_path / "r")
    assert len(list((tmp_path / "r/attic").glob("*recipe.yaml"))) == 1
    manifest = artifact.read(tmp_path / "r/round-01/loud").manifest
    assert manifest.facts == {"rows": 20, "shards": 5}
    assert manifest.provenance["seconds"] >= 0 and manifest.provenance["versions"]["pyarrow"]
    with pytest.raises(Refusal, match="is not a run; runs beside it: r"):
        run.recorded(tmp_path / "q")


def test_progress_counts_up_to_the_number_of_shards(tmp_path):
    told: list[tuple[str, int, int]] = []
    lock = threading.Lock()

    def report(address: str, done: int, total: int) -> None:
        with lock:
            told.append((address, done, total))

    context = Context(run=tmp_path / "r", profile=profile(), report=report)
    run.run(small(rounds=1), profile(), tmp_path / "r", context=context)
    assert [t for t in told if t[0] == "round-01/loud"] == [("round-01/loud", i, 5) for i in range(6)]


@pytest.mark.parametrize(
    "edit, sentence",
    [
        (
            "small(start__policy={'stage': 'init', 'model': {'model_type': 'llama'}}), profile()",
            "start/policy: needs {}, which is not installed",
        ),
        (
            "small(), profile(executor='ray')",
            "executor ray: needs ray, which is not installed; install it with `pip install 'rematch[ray]'`",
        ),
    ],
)
def test_a_library_that_is_not_installed_is_one_sentence(tmp_path, edit, sentence):
    """The core plans and shows runs without torch and Ray; what needs them says what to install."""
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'tokenizers', 'ray', 'datasets'): sys.modules[name] = None\n"
        "from tests.support.core import *; from pipeline import run, errors\n"
        f"try: run.run({edit}, Path(sys.argv[1]))\n"
        "except errors.Refusal as error: print(error); sys.exit(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert re.match(re.escape(sentence).replace(r"\{\}", r"\w+"), done.stdout)
