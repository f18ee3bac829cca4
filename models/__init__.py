"""What a model folder is, and how one is read: messages, templates, weights, canary, forward passes, scores.

Engines, judges, trainers and stages all load models through here, so that they see the same tokens and the same numbers.
Knows no table's history, no objective and no optimizer. What a model *artifact* is stands in `pipeline.model`.
Whoever loads one is handed a `Model`, and passes it on whole; `model.folder` is for its tokenizer and configuration alone.
"""

from pipeline.model import Endpoint, Model

__all__ = ["Endpoint", "Model"]
