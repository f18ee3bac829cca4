"""Stages are kinds of work: each makes one artifact out of others. This page is their whole contract; each file beside it is one stage.

A stage module has `VERSION`, `MAKES` (a table of pipeline/rows.py, "model" or "report"), `Config` and

    run(config, inputs: dict[str, tuple[Artifact, ...]], out: Path, tools: Tools) -> Facts

which writes all that it makes below `out` and returns plain JSON about it; tables have "rows" among their facts. A field that
names other nodes is typed `Annotated[str, Reads("pairs")]` (or `str | None`, or `tuple[str, ...]`), and what it names is in
`inputs` under the field's name; a field that picks a plugin is `Annotated[Choice, Picks("judges")]`, and what that plugin
reads is there as `field.its_field`. A field marked `Gate()` decides whether the step fails, and nothing of what it makes.

Work on rows goes through `tools.map`, whose function gets a shard of the table and returns rows and facts: shards are durable,
and neither their size nor their order may show in the result. Randomness comes of `tools.seed` and ids alone. Optional:

    uses(config) -> "engine" | "forward" | "trainer" | None     the hardware it needs; None if it is not there
    reads(config) -> dict[str, Reads]                           fields that, with these settings, take fewer kinds of nodes
    SEEDED = False         it draws nothing: neither its key nor its tools have the recipe's seed, so runs of several seeds share it
    estimate(config, inputs, round) -> {"rows": ..., "tokens": ...}     from the rows of its inputs; None where nobody knows
"""
