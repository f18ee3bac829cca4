"""Stages are kinds of work: each makes one artifact out of others. This page is their whole contract; each file beside it is one stage.

A stage module is a `Stage`. `MAKES` is a table of pipeline/rows.py, one of its own, a kind of model of pipeline/model.py or "report".
`run` writes all that it makes below `tools.out` and returns plain JSON about it; tables have "rows" among their facts. A field that
names other nodes is typed `Annotated[str, Reads("pairs")]` (or `str | None`, or `tuple[str, ...]`), and what it names is
`tools.input("field")`, or all of `tools.inputs["field"]` (of a model, `tools.model("field")` gives a `models.Model`); a field that
picks a plugin is `Annotated[Choice, Picks("judges")]`, and that plugin is called with `tools.of("field")`, where what it reads has
the names of its own fields. A field marked `Gate()` decides whether the step fails, and nothing of what it makes.

Work on rows goes through `tools.map`, whose function gets a shard of the table and returns rows and facts: shards are durable,
and neither their size nor their order may show in the result. It has `tools.shard_work`, a folder that survives a crash until its
shard is sealed. Randomness comes of `tools.seed` and ids alone. Optional:

    makes(config) -> str                                        beside MAKES, where it depends on the settings
    TABLE: pa.Schema                                            the columns of a table of its own, whose name is in MAKES
    uses(config) -> frozenset of "engine", "forward", "trainer" what it runs, all at once; nothing if it is not there
    reads(config) -> dict[str, Reads]                           fields that, with these settings, take fewer kinds of nodes
    check(config, inputs: dict[str, tuple[Step, ...]]) -> Iterator[str]     what is wrong between its settings and those of the steps
                                                                            that it reads (pipeline.plan.Step), before anything runs
    SEEDED = False         it draws nothing: neither its key nor its tools have the recipe's seed, so runs of several seeds share it
    estimate(config, inputs, round) -> {"rows": ..., "tokens": ...}     from the rows of its inputs; None where nobody knows
"""

from typing import Any, Protocol

from pipeline.artifact import Facts
from pipeline.plugin import Settings
from pipeline.tools import Tools


class Stage(Protocol):
    """What a stage module is."""

    VERSION: int

    @property
    def Config(self) -> type[Settings]: ...

    MAKES: str

    def run(self, config: Any, tools: Tools) -> Facts: ...
