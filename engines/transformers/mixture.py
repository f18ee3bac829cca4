"""Two models as one: the geometric mixture that Nash-MD plays against (arXiv:2312.00886), token by token.

The next token's distribution is softmax(c * other's logits + (1 - c) * model's logits), which is proportional to
other^c * model^(1 - c). It is called as a Hugging Face model is, as far as the decoding loop calls one.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipeline.errors import Refusal

if TYPE_CHECKING:
    from torch import Tensor


class Mixture:
    """`weight` is c, the share of `other`: 0 is `model` and 1 is `other`, exactly."""

    def __init__(self, model: Any, other: Any, weight: float) -> None:
        self.config = model.config
        self._models, self._weight = (model, other), weight
        sizes = [int(each.config.get_text_config().vocab_size) for each in self._models]
        if sizes[0] != sizes[1]:
            raise Refusal(f"a mixture: one model has logits for {sizes[0]} tokens, the other for {sizes[1]}; mix models that come from one")

    def parameters(self) -> Iterator[Any]:
        return self._models[0].parameters()

    def new_cache(self) -> "Caches":
        """An empty cache of keys and values for each model."""
        from transformers import DynamicCache

        return Caches([DynamicCache(config=model.config) for model in self._models])

    def __call__(self, *, past_key_values: "Caches | None" = None, **inputs: Any) -> SimpleNamespace:
        caches = past_key_values.each if past_key_values else [None, None]
        mine, other = (m(**inputs, past_key_values=cache).logits.float() for m, cache in zip(self._models, caches, strict=True))
        return SimpleNamespace(logits=(1 - self._weight) * mine + self._weight * other)


class Caches:
    """The caches of both models, cut together."""

    def __init__(self, each: list[Any]) -> None:
        self.each = each

    def batch_select_indices(self, rows: "Tensor") -> None:
        """Keep these rows."""
        for cache in self.each:
            cache.batch_select_indices(rows)
