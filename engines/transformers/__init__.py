"""Text generation in this process by Hugging Face transformers, for laptops and small models.

Batches are sorted by length and bounded by tokens; each sample has its own random numbers, so it is the same in
any batch (up to the rounding of float arithmetic).
"""

import gc
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from engines import Completion, Request, Response, _begun
from models import Model
from pipeline.errors import Refusal
from pipeline.placement import Placement
from pipeline.plugin import Settings

VERSION = 1
SCRIPTED = False


class Config(Settings):
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """`cpu`, `cuda` or `cuda:1`. Not `mps`: sampling counts in float64, which it lacks."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Weights and activations."""
    tokens_per_batch: int = Field(32768, ge=1)
    """Tokens (prompt and response at its longest, times samples) that are held at once: what bounds memory."""
    max_model_len: int | None = Field(None, ge=2)
    """Tokens of prompt and response together; None: what the model was made for."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each worker; None: torch's choice."""
    replicas: int = Field(1, ge=1)
    """Worker processes, each with its own copy of the model."""
    cpus: float = Field(1.0, gt=0)
    """CPU cores that the executor reserves for each worker."""


class Transformers:
    """An open engine over one loaded model, or over a mixture that is called like one."""

    def __init__(self, config: Config, folder: Path, model: Any, tokenizer: Any, context: int) -> None:
        from models import chat, weights

        self._config, self._model, self._tokenizer = config, model, tokenizer
        self._stop_ids = chat.stop_ids(folder, tokenizer)
        self._context = config.max_model_len or context
        self._vocabulary = weights.vocabulary_of(model.config)
        self.tokenizer = chat.fingerprint(tokenizer)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        import torch

        from models import chat

        prompts = [tuple(ids) for ids in chat.render_all(self._tokenizer, [request.messages for request in requests])]
        over = _begun.over(requests, self._stop_ids, self._vocabulary)
        heads = [prompt + request.begun for prompt, request in zip(prompts, requests, strict=True)]
        begun = [request.begun for request in requests]
        chat.check_room([() if done else head for head, done in zip(heads, over, strict=True)], self._context, begun)
        with torch.inference_mode():
            responses = self._sample(requests, heads, over)
            scores = self._score(requests, heads)
        return [Completion(*answer) for answer in zip(prompts, responses, scores, strict=True)]

    def _sample(self, requests: Sequence[Request], prompts: Sequence[tuple[int, ...]], over: Sequence[bool]) -> list[tuple[Response, ...]]:
        from engines.transformers import decoding
        from models import chat

        rows: list[decoding.Row] = []
        for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            room = min(request.max_new_tokens, self._context - len(prompt))
            count = 0 if request.options or over[index] else request.n
            rows += [decoding.Row(index, sample, prompt, room) for sample in range(count)]
        stopped = partial(_begun.stopped, self._tokenizer)
        drawn: dict[tuple[int, int], decoding.Drawn] = {}
        for batch in decoding.batches(rows, self._config.tokens_per_batch):
            for row, one in zip(batch, decoding.draw(self._model, batch, requests, self._stop_ids, stopped), strict=True):
                drawn[row.request, row.sample] = one
        made = [drawn[row.request, row.sample] for row in rows]
        asked = [requests[row.request] for row in rows]
        texts = chat.texts(self._tokenizer, [one.token_ids for one in made], [each.stop for each in asked], [each.begun for each in asked])
        answers = [[_begun.ENDED] * request.n if done else [] for request, done in zip(requests, over, strict=True)]
        for row, one, text in zip(rows, made, texts, strict=True):
            answers[row.request].append(Response(text, tuple(one.token_ids), tuple(one.logprobs), one.finish_reason))
        return [tuple(responses) for responses in answers]

    def _score(self, requests: Sequence[Request], prompts: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        from engines.transformers import decoding
        from models import chat

        options = [[chat.text_ids(self._tokenizer, option) for option in request.options] for request in requests]
        pairs = [(prompt, ids) for prompt, each in zip(prompts, options, strict=True) for ids in each]
        chat.check_room((prompt + tuple(ids[:-1]) for prompt, ids in pairs), self._context)
        sums = iter(decoding.continuations(self._model, pairs, self._config.tokens_per_batch))
        return [tuple(next(sums) for _ in each) for each in options]


@contextmanager
def open(config: Config, model: Model, *, seed: int) -> Generator[Transformers, None, None]:
    """Load `model`, check its canary, and free it at the end. `seed` is unused: every request brings its own."""
    from models import chat, weights

    tokenizer = chat.load_tokenizer(model.folder)
    with _loaded(config, model) as [only]:
        yield Transformers(config, model.folder, only, tokenizer, weights.context_of(only.config))


@contextmanager
def open_mixture(config: Config, model: Model, other: Model, weight: float, *, seed: int) -> Generator[Transformers, None, None]:
    """As `open`, over the geometric mixture of two models of one tokenizer (see engines.transformers.mixture)."""
    from engines.transformers import mixture
    from models import chat, weights

    tokenizer, another = chat.load_tokenizer(model.folder), chat.load_tokenizer(other.folder)
    if chat.fingerprint(tokenizer) != chat.fingerprint(another):
        raise Refusal(f"{model.folder} and {other.folder} have different tokenizers; mix models that come from one")
    with _loaded(config, model, other) as both:
        mixed = mixture.Mixture(both[0], both[1], weight)
        yield Transformers(config, model.folder, mixed, tokenizer, min(weights.context_of(each.config) for each in both))


@contextmanager
def _loaded(config: Config, *models: Model) -> Generator[list[Any], None, None]:
    """These models, each held to its canary; freed when the block ends."""
    import torch

    from models import canary, weights

    weights.check_device(config.device)
    threads = torch.get_num_threads()
    if config.threads:
        torch.set_num_threads(config.threads)
    held: list[Any] = []
    try:
        for model in models:
            held.append(canary.load(model, partial(_load, config, model), _drop, canary.measure, config.dtype))
        yield list(held)
    finally:
        torch.set_num_threads(threads)
        while held:
            _drop(held.pop())


def _load(config: Config, model: Model) -> Any:
    from models import weights

    return weights.causal_lm(model, config.dtype).to(config.device).eval()


def _drop(model: Any) -> None:
    """Give the memory back although somebody may still hold the engine."""
    import torch

    model.to("meta")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def placement(config: Config) -> Placement:
    """One GPU a worker on cuda, else CPU cores only."""
    return Placement(workers=config.replicas, gpus=1.0 if config.device.startswith("cuda") else 0.0, cpus=config.cpus)
