"""How long artifacts live: what a recipe does not keep is dropped when nothing is left to read it, and rebuilt when something is.

A dropped artifact has its manifest and no files. It counts as done, and so do its readers, until a step that has to
be built reads it. What another artifact leans on stays for as long as that one has its files. Knows plans and artifacts;
the states of steps are given to it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline import artifact, events
from pipeline.artifact import Artifact
from pipeline.plan import Step


def to_build(steps: list[Step], states: Mapping[str, str]) -> list[Step]:
    """The missing steps, and the dropped ones that one of these reads, in plan order."""
    wanted: set[str] = set()
    read: set[str] = set()
    for step in reversed(steps):
        state = states[step.address]
        if state == "missing" or (state == "dropped" and step.address in read):
            wanted.add(step.address)
            read.update(step.reads)
    return [step for step in steps if step.address in wanted]


def dropping(
    steps: list[Step], todo: list[Step], folder: Path, finished: Callable[[Artifact, str], None]
) -> Callable[[Artifact, str], None]:
    """Drop now what has no reader in `todo`; returns what is to be called as each step of `todo` is finished, which drops the rest.

    A step that nothing reads is never dropped. What a killed process left half removed is removed.
    """
    left = {step.address for step in todo}
    by_address = {step.address: step for step in steps}
    readers: dict[str, list[str]] = {address: [] for address in by_address}
    for step in steps:
        for address in step.reads:
            readers[address].append(step.address)

    def drop_if_over(address: str) -> None:
        step = by_address[address]
        if left.intersection([address, *readers[address]]):
            return
        have = artifact.read(step.folder(folder))
        if have is None or not (have.manifest.dropped or (not step.keep and readers[address])):
            return
        if artifact.leaners(folder, [address]):
            return
        artifact.drop(have)
        if not have.manifest.dropped:
            events.append(folder, "dropped", address=address)
        for base in have.manifest.leans_on:
            if base in by_address and not by_address[base].keep:
                drop_if_over(base)

    def then(made: Artifact, address: str) -> None:
        finished(made, address)
        left.discard(address)
        for each in (address, *by_address[address].reads):
            if not by_address[each].keep:
                drop_if_over(each)

    for address in by_address:
        drop_if_over(address)
    return then
