"""A judge for tests that writes down every group that it is asked about. Source: none, it exists for tests.

It scores by place, leaves the first response to every fourth question undecided, and has rates that it can be held to.
"""

from collections.abc import Sequence
from pathlib import Path

from judges import Group, Verdict
from pipeline.placement import NOTHING
from pipeline.plugin import Settings
from pipeline.tools import Tools

VERSION = 1
USES = NOTHING


class Config(Settings):
    book: str
    """Where it writes."""


def judge(config: Config, groups: Sequence[Group], tools: Tools) -> list[Verdict]:
    with Path(config.book).open("a") as out:
        out.writelines(f"{group.id}\n" for group in groups)
    return [_verdict(group) for group in groups]


def _verdict(group: Group) -> Verdict:
    number = int(group.prompt[-1]["content"].split()[-1])
    scores = tuple(None if number % 4 == 1 and at == 0 else float(at) for at in range(len(group.responses)))
    return Verdict(scores, tally={"position_rate": (2.7, 3), "good": (0.6, 3)})
