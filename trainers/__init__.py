"""Trainers turn rows into checkpoints. This page is their whole contract; each file beside it is one trainer.

A trainer module has `VERSION`, `Config` (the machine: ranks, precision, memory; never the result) and

    train(config, job: Job, tools) -> Facts
    placement(config) -> pipeline.placement.Placement

and `IN_PROCESS = True` if it trains in the process that runs the step, instead of in a gang of ranks.
It leaves a Hugging Face folder in safetensors at `job.out` (with tokenizer and `canary.json`; with `labels.parquet`
if the objective moves labels, and `optimizer/` if it is to be kept), writes checkpoints below `job.work` and goes on
from the last valid one, with the same data order.
"""
