"""The loop that all trainers share: a job, its examples, their batches, and what its steps leave.

A trainer brings a Worker (`training.state`): how to run a forward, how to add up over ranks, how to store its state. A trainer
of your own begins with `data.read(job)`, `state.begin(...)`, `loop.run(...)`, as `trainers/torch/worker.py` does.
"""
