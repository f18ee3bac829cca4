"""A trainer for tests that plan but do not train. Source: none, it exists for tests."""

from pipeline.artifact import Facts
from pipeline.placement import Placement
from pipeline.plugin import Settings
from pipeline.tools import Tools
from training.job import Job

VERSION = 1


class Config(Settings):
    pass


def placement(config: Config) -> Placement:
    return Placement()


def train(config: Config, job: Job, tools: Tools) -> Facts:
    raise AssertionError("no test trains with this")
