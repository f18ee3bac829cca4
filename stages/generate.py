"""Sample responses from a model for every prompt: the self-play of the round (SPPO, arXiv:2405.00675, algorithm 1).

Each prompt is asked once for `n` samples, with a seed made of the step's seed and the prompt's id, so that neither
the order of the rows nor the number of workers shows in what comes out. Token ids and their summed untempered
log-probability (under the mixture, where there is one) travel with the text.
"""

from functools import partial
from typing import Annotated

import pyarrow as pa
from pydantic import Field, model_validator

from engines import Completion, Engine, Request, RequestRefused
from models.chat import PromptTooLong
from pipeline.artifact import Facts
from pipeline.draws import draw
from pipeline.errors import Refusal
from pipeline.placement import Need
from pipeline.plugin import Reads, Settings
from pipeline.tools import Tools
from stages import _columns
from stages._completions import candidates

VERSION = 1
MAKES = "candidates"


class Config(Settings):
    model: Annotated[str, Reads("policy", "endpoint")]
    """The model that answers."""
    prompts: Annotated[str, Reads("prompts")]
    """What is asked."""
    n: int = Field(5, ge=1)
    """Samples per prompt."""
    temperature: float = Field(1.0, ge=0, le=2)
    """0 is greedy; above 2, where vLLM refuses, nothing is left of the model."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens that together have this probability."""
    top_k: int = Field(0, ge=0)
    """Sample from this many likeliest tokens; 0 is all."""
    max_new_tokens: int = Field(512, ge=1)
    """Longest response; what reaches it is kept, with finish_reason `length`."""
    stop: tuple[str, ...] = ()
    """Texts that end a response; the text is cut before them, the token ids are kept as sampled."""
    mixture_with: Annotated[str | None, Reads("policy")] = None
    """Sample from the geometric mixture of `model` and this one, token by token (Nash-MD). Takes an engine that holds both."""
    mixture_weight: float = Field(0.5, ge=0, le=1)
    """Share of `mixture_with` in the mixture: 0 is `model`, 1 the other; Nash-MD in TRL has 0.5, EGPO's comparison 0.125."""

    @model_validator(mode="after")
    def _samples_differ(self) -> "Config":
        if self.mixture_with is None and "mixture_weight" in self.model_fields_set:
            raise ValueError("mixture_weight: there is no mixture; name its other model in `mixture_with`, or leave the weight out")
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"temperature 0 would give the same response n = {self.n} times; set n: 1, or a temperature above 0")
        if "" in self.stop:
            raise ValueError("stop: an empty text would end every response at once; leave it out")
        return self


def reads(config: Config) -> dict[str, Reads]:
    """Both models of a mixture have weights."""
    return {"model": Reads("policy")} if config.mixture_with is not None else {}


def uses(config: Config) -> frozenset[Need]:
    """The profile's engine."""
    return frozenset({"engine"})


def estimate(config: Config, inputs: dict[str, int | None], round: int | None) -> dict[str, int | None]:
    """One row per prompt; tokens are those of the longest possible responses."""
    prompts = inputs["prompts"]
    return {"rows": prompts, "tokens": None if prompts is None else prompts * config.n * config.max_new_tokens}


def run(config: Config, tools: Tools) -> Facts:
    """Facts count what was sampled; `truncated` responses reached max_new_tokens or the end of the context."""
    parts = tools.map(partial(_shard, config), tools.input("prompts"), "candidates")
    sums = {name: sum(part[name] for part in parts) for name in _COUNTS}
    responses = sums["responses"]
    return {
        **sums,
        "truncated_share": sums["truncated"] / responses if responses else 0.0,
        "mean_length": sums["tokens"] / responses if responses else 0.0,
        "tokenizer": ",".join(sorted({part["tokenizer"] for part in parts} - {None})) or None,
    }


def _mixture(config: Config, tools: Tools) -> Engine:
    """The open engine over both models, kept warm as one over a single model is."""
    engine = tools.profile.engine
    if not hasattr(engine.module, "open_mixture"):
        raise Refusal(
            f"{tools.address}: engine '{engine.kind}' samples from one model alone and cannot mix two; "
            "set the engine 'transformers' for this node in the profile's overrides, or leave `mixture_with` out"
        )
    models = tools.model("model"), tools.model("mixture_with")
    return tools.warm(engine.module.open_mixture, engine.config, *models, config.mixture_weight, seed=tools.seed)


_COUNTS = ("rows", "responses", "tokens", "prompt_tokens", "cached_tokens", "truncated", "empty")


def _shard(config: Config, table: pa.Table, tools: Tools) -> tuple[pa.Table, Facts]:
    engine = tools.engine("model") if config.mixture_with is None else _mixture(config, tools)
    ids = table["id"].to_pylist()
    requests = [
        Request(
            messages=tuple(messages),
            n=config.n,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            max_new_tokens=config.max_new_tokens,
            seed=request_seed(tools.seed, id),
            stop=config.stop,
        )
        for id, messages in zip(ids, _columns.messages(table["prompt"]), strict=True)
    ]
    try:
        completions: list[Completion] = engine.complete(requests)
    except PromptTooLong as error:
        raise Refusal(
            f"{tools.address}: prompt {ids[error.index]!r} has {error.tokens} tokens and the context of the model holds {error.limit}, "
            "which leaves no room for a response; shorten or drop it where the prompts are made, or use a model with a longer context"
        ) from None
    except RequestRefused as error:
        raise Refusal(f"{tools.address}: prompt {ids[error.index]!r}: {error}") from None
    responses = [response for completion in completions for response in completion.responses]
    facts = {
        "rows": table.num_rows,
        "responses": len(responses),
        "tokens": sum(completion.response_tokens for completion in completions),
        "prompt_tokens": sum(completion.prompt_tokens for completion in completions),
        "cached_tokens": sum(completion.cached_tokens for completion in completions),
        "truncated": sum(response.finish_reason == "length" for response in responses),
        "empty": sum(not response.text.strip() for response in responses),
        "tokenizer": engine.tokenizer,
    }
    return candidates(table, completions, [engine.tokenizer] * table.num_rows, tools.address), facts


def request_seed(seed: int, id: str) -> int:
    """The seed of one prompt: 62 bits, so that an engine may add a sample's number to it without overflow."""
    return draw(seed, id) >> 2
