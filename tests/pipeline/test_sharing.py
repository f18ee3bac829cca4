"""Runs beside each other share what is the same: linked, not built, and never when it could be something else."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import artifact, cli, events, recipe, run
from pipeline.build import Context
from pipeline.plan import plan
from pipeline.request import Asked
from pipeline.views import status as view
from tests.support.core import digests, profile, small, steps

SHARING = {"reuse": "siblings"}
START = {"round__loud__suffix": "!!"}
"""Changes `loud` and `both`, and neither the words of the start nor those of the rounds."""
BUILT_OTHERWISE = [f"round-0{r}/{node}" for r in (1, 2, 3) for node in ("loud", "both")]
LINKED = ["round-01/words", "round-02/words", "round-03/words"]


def build(folder, body=None, **changes):
    return run.run(body or small(), profile(**{**SHARING, **changes}), folder)


def inode(path: Path) -> int:
    return next(path.glob("data-*")).stat().st_ino


def test_what_is_equal_is_linked_and_the_rest_is_built(tmp_path):
    build(tmp_path / "a")
    alone = build(tmp_path / "apart" / "b", small(**START))
    assert build(tmp_path / "b", small(**START)) == ["start/words", *[a for a in alone if a in BUILT_OTHERWISE]]
    assert digests(tmp_path / "b") == digests(tmp_path / "apart" / "b")
    for address in LINKED:
        assert inode(tmp_path / "a" / address) == inode(tmp_path / "b" / address)
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]


def test_the_profile_says_whether(tmp_path):
    build(tmp_path / "a")
    everything = [step.address for step in steps(small())]
    assert build(tmp_path / "b", reuse="none") == everything
    assert {events_of(tmp_path / "b", "linked")} == {()} and inode(tmp_path / "a/round-01/words") != inode(tmp_path / "b/round-01/words")


def events_of(folder, kind):
    return tuple(event["address"] for event in events.read(folder) if event["kind"] == kind)


def test_a_step_that_reads_no_other_is_built_because_what_it_read_may_have_changed(tmp_path, monkeypatch):
    """The same path with other bytes has the same key; its readers have other inputs and are not linked either."""
    from tests.support.mishaps import RECIPE, lay_out

    lay_out(tmp_path)
    body = {
        **RECIPE,
        "rounds": 0,
        "start": {"prompts": RECIPE["start"]["prompts"], "half": {"stage": "slice", "rows": "prompts", "parts": 2, "part": 1}},
    }
    monkeypatch.chdir(tmp_path)
    made = recipe.make(body, "t")
    run.run(made, profile(**SHARING), Path("runs/a"))
    assert run.run(made, profile(**SHARING), Path("runs/b")) == ["start/prompts"]
    lines = Path("prompts.jsonl").read_text().splitlines()
    Path("prompts.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert run.run(made, profile(**SHARING), Path("runs/c")) == ["start/prompts", "start/half"]


def test_damaged_bytes_are_not_shared_and_said_so(tmp_path, caplog):
    build(tmp_path / "a")
    path = tmp_path / "a/round-01/words/data-00000.parquet"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert "round-01/words" in build(tmp_path / "b", small(**START))
    assert "round-01/words: is in the run a, and cannot be linked" in caplog.text and "its digest differs" in caplog.text


def test_a_shared_file_that_is_edited_is_found_in_both_runs(tmp_path):
    build(tmp_path / "a")
    build(tmp_path / "b", small(**START))
    path = tmp_path / "a/round-01/words/data-00000.parquet"
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\0\1\2")
    for folder, body in (("a", small()), ("b", small(**START))):
        assert run.status(steps(body), tmp_path / folder, verify=True)["round-01/words"].state == "corrupt"


def test_dropping_in_one_run_leaves_the_other_whole(tmp_path):
    build(tmp_path / "a")
    draft = small(**START, round__words__keep=False)
    build(tmp_path / "b", draft)
    assert run.status(steps(draft), tmp_path / "b")["round-01/words"].state == "dropped"
    assert {each.state for each in run.status(steps(small()), tmp_path / "a", verify=True).values()} == {"done"}
    # And what is dropped is nobody's to link.
    assert "round-01/words" in build(tmp_path / "only" / "b", draft) and "round-01/words" in build(tmp_path / "only" / "c", small())


def test_retiring_in_one_run_leaves_the_other_whole_and_from_builds_again(tmp_path):
    build(tmp_path / "a")
    assert build(tmp_path / "b") == ["start/words"]
    again = run.run(small(), profile(**SHARING), tmp_path / "b", start_at="round-03")
    assert again == ["round-03/loud", "round-03/words", "round-03/both"], "what --from names is built, not linked"
    run.retire(tmp_path / "b", ["round-03/words"])
    assert build(tmp_path / "b") == [], "what was retired comes back from the other run"
    assert {each.state for each in run.status(steps(small()), tmp_path / "a", verify=True).values()} == {"done"}


def test_neither_attics_nor_drafts_nor_folders_that_are_no_run_are_read(tmp_path):
    build(tmp_path / "a")
    run.retire(tmp_path / "a", ["round-01/words"])
    (tmp_path / "copy").mkdir()
    os.rename(tmp_path / "a/attic", tmp_path / "copy/attic")
    attic = next((tmp_path / "copy/attic").iterdir())
    os.rename(attic / "round-01", tmp_path / "copy/round-01")  # no recipe.yaml beside it
    half = artifact.draft_folder(tmp_path / "a/round-01/words", {s.address: s for s in steps(small())}["round-01/words"].key)
    (half / "out").mkdir(parents=True)
    assert "round-01/words" in build(tmp_path / "b", small(**START))


def test_a_file_system_that_cannot_link_builds(tmp_path, monkeypatch, caplog):
    build(tmp_path / "a")

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert build(tmp_path / "b") == [step.address for step in steps(small())]
    assert "is in the run a, and cannot be linked (Invalid cross-device link); it is built here" in caplog.text


def test_what_is_dropped_while_it_is_linked_is_not_half_shared(tmp_path, monkeypatch):
    build(tmp_path / "a")
    real = os.link

    def drop_then_link(source, target):
        if Path(source).name == artifact.MANIFEST and "words" in str(source):
            have = artifact.read(Path(source).parent)
            artifact.drop(have)
        real(source, target)

    monkeypatch.setattr(os, "link", drop_then_link)
    built = build(tmp_path / "b")
    assert "round-01/words" in built
    assert {each.state for each in run.status(steps(small()), tmp_path / "b", verify=True).values()} == {"done"}


def test_status_says_from_where_even_when_the_other_run_is_gone(tmp_path):
    import shutil

    build(tmp_path / "a")
    build(tmp_path / "b", small(**START))
    shutil.rmtree(tmp_path / "a")
    asked = Asked(small(**START), profile(**SHARING), tmp_path / "b", "")
    found = {each["address"]: each["linked_from"] for each in view.collect(asked)["steps"]}
    assert {address for address, name in found.items() if name == "a"} == set(LINKED)
    assert {found[address] for address in found if address not in LINKED} == {None}
    run.run(small(**START), profile(**SHARING), tmp_path / "b", start_at="round-03/words")
    assert view.collect(asked)["steps"][-2]["linked_from"] is None, "built here since"


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline import run
from tests.support.core import profile, small
calls, at = 0, int(sys.argv[2])
def counted(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
os.link, os.rename, os.fsync = counted(os.link), counted(os.rename), counted(os.fsync)
run.run(small(rounds=1, round__loud__suffix="!!"), profile(reuse="siblings"), Path(sys.argv[1]))
"""


def test_killed_between_any_two_steps_of_linking_it_goes_on(tmp_path):
    build(tmp_path / "a", small(rounds=1))
    whole = None
    for at in (6, 9, 11, 12, 13, 14, 15, 16, 17, 10_000):
        folder = tmp_path / "runs" / f"k{at}" / "b"
        folder.parent.mkdir(parents=True)
        (folder.parent / "a").symlink_to(tmp_path / "a")
        code = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(at)], stderr=subprocess.DEVNULL).returncode
        assert code == (0 if at == 10_000 else -signal.SIGKILL)
        build(folder, small(rounds=1, round__loud__suffix="!!"))
        whole = whole or digests(folder)
        assert digests(folder) == whole
        assert not [path for path in folder.rglob(".*") if path.is_dir()], at
    assert inode(folder / "round-01/words") == inode(tmp_path / "a/round-01/words")


def test_a_stage_that_draws_nothing_has_no_seed_in_its_key_and_gives_the_same_for_every_seed(tmp_path):
    body = {
        "name": "seeds",
        "rounds": 1,
        "start": {
            "prompts": {"stage": "prompts", "source": {"kind": "letters", "count": 12}},
            "shown": {"stage": "demonstrations", "source": {"kind": "letters", "count": 12, "corrupt": 0.5}},
        },
        "round": {
            "batch": {"stage": "slice", "rows": "prompts", "parts": 2},
            "wrong": {"stage": "mismatch", "rows": "shown"},
        },
    }
    found = {}
    for seed in (0, 1):
        made = recipe.make({**body, "seed": seed}, "t")
        run.run(made, profile(), tmp_path / str(seed))
        found[seed] = {s.address: (s.key, s.seed, digests(tmp_path / str(seed))[s.address]) for s in plan(made, profile())}
    for address in ("start/prompts", "start/shown", "round-01/batch"):
        assert found[0][address] == found[1][address] and found[0][address][1] is None
    assert found[0]["round-01/wrong"][0] != found[1]["round-01/wrong"][0]
    assert found[0]["round-01/wrong"][2] != found[1]["round-01/wrong"][2], "what draws differs"


def test_a_stage_that_says_it_draws_nothing_is_given_no_seed(tmp_path):
    from tests.support.steps import tools

    with pytest.raises(RuntimeError, match="SEEDED = False, so no seed is in its key"):
        _ = tools(tmp_path, seed=None).seed


def test_two_runs_at_once_share_only_what_is_whole(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipeline import run\nfrom tests.support.core import profile, small\n"
        "run.run(small(), profile(reuse='siblings'), Path(sys.argv[1]))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name)]) for name in ("a", "b")]
    assert [each.wait() for each in both] == [0, 0]
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_fork_says_what_it_shares(tmp_path):
    build(tmp_path / "a")
    _, shared = run.fork(tmp_path / "a", tmp_path / "f", at=3, changes=["round.loud.suffix=x"])
    assert events_of(tmp_path / "f", "linked") == tuple(shared) and json.loads((tmp_path / "f/events.jsonl").read_text().splitlines()[0])
    assert cli.call(["status", str(tmp_path / "f")]) == 0


def test_progress_is_told_of_what_was_linked(tmp_path):
    build(tmp_path / "a")
    told = {}
    context = Context(
        run=tmp_path / "b", profile=profile(**SHARING), finished=lambda made, address: told.update({address: made.linked_from})
    )
    run.run(small(**START), profile(**SHARING), tmp_path / "b", context=context)
    assert {address for address, name in told.items() if name == "a"} == set(LINKED)
