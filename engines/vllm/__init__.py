"""Text generation by vLLM's offline engine (tested with 0.32): paged attention, prefix caching, `n` samples of one prefill.

A seed is the random stream of one request: the continuation of a response that is begun (`Request.begun`) is another draw
than the rest of the same response sampled whole, under the same seed. Greedily the two agree.

Data parallelism is `replicas`: each worker of the executor opens an engine of its own. Prompts go in and responses
come out as token ids. How the engine is started, stopped and kept from harm is `process.py`'s business.
"""

# vLLM is not installed wherever types are checked.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from engines import Completion, Request, Response, _begun
from engines.vllm.config import Config
from models import Model
from pipeline.placement import Placement

VERSION = 1
SCRIPTED = False


class Vllm:
    """An open engine. After a failure nothing of it is reused: the next call starts it anew."""

    def __init__(self, config: Config, model: Model, seed: int) -> None:
        from models import chat

        self._config, self._model, self._seed = config, model, seed
        self._tokenizer = chat.load_tokenizer(model.folder)
        self._stop_ids = chat.stop_ids(model.folder, self._tokenizer)
        self.tokenizer = chat.fingerprint(self._tokenizer)
        self._held: list[Any] = [self._load()]

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        from models import chat

        if not self._held:
            self._held.append(self._load())
        prompts = [tuple(ids) for ids in chat.render_all(self._tokenizer, [request.messages for request in requests])]
        config = self._held[0].model_config
        over = _begun.over(requests, self._stop_ids, config.get_vocab_size())
        heads = [prompt + request.begun for prompt, request in zip(prompts, requests, strict=True)]
        begun = [request.begun for request in requests]
        chat.check_room([() if done else head for head, done in zip(heads, over, strict=True)], config.max_model_len, begun)
        options = [[chat.text_ids(self._tokenizer, option) for option in request.options] for request in requests]
        pairs = [(head, ids) for head, each in zip(heads, options, strict=True) for ids in each]
        chat.check_room((head + tuple(ids) for head, ids in pairs), config.max_model_len)  # vLLM samples one more
        done = False
        try:
            responses, cached = self._sample(requests, heads, over)
            sums = iter(self._score(pairs))
            done = True
        finally:
            if not done:
                self.close()  # one bad request leaves vLLM's core dead or its scheduler torn
        scores = [tuple(next(sums) for _ in each) for each in options]
        return [Completion(*answer) for answer in zip(prompts, responses, scores, cached, strict=True)]

    def _sample(
        self, requests: Sequence[Request], prompts: Sequence[tuple[int, ...]], over: Sequence[bool]
    ) -> tuple[list[tuple[Response, ...]], list[int]]:
        from vllm import TokensPrompt

        from models import chat

        asked = [i for i, request in enumerate(requests) if not request.options and not over[i]]
        outputs = self._held[0].generate(
            [TokensPrompt(prompt_token_ids=list(prompts[i])) for i in asked], [self._params(requests[i]) for i in asked], use_tqdm=False
        )
        flat: list[tuple[int, Response]] = []
        for i, output in zip(asked, outputs, strict=True):
            for sample in output.outputs:
                logprobs = tuple(sample.logprobs.logprobs[at] for at in sample.logprobs.start_indices)
                whole = Response("", tuple(sample.token_ids), logprobs, sample.finish_reason)
                flat.append((i, _begun.cut(self._tokenizer, requests[i], whole)))
        each = [requests[i] for i, _ in flat]
        texts = chat.texts(
            self._tokenizer, [made.token_ids for _, made in flat], [request.stop for request in each], [request.begun for request in each]
        )
        answers = [[_begun.ENDED] * request.n if done else [] for request, done in zip(requests, over, strict=True)]
        for (i, made), text in zip(flat, texts, strict=True):
            answers[i].append(replace(made, text=text))
        cached = [0] * len(requests)
        for i, output in zip(asked, outputs, strict=True):
            cached[i] = output.num_cached_tokens or 0
        return [tuple(responses) for responses in answers], cached

    def _params(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=request.n,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            max_tokens=request.max_new_tokens,
            seed=request.seed & (1 << 62) - 1,  # vLLM adds the sample's number to it
            stop=list(request.stop),
            stop_token_ids=list(self._stop_ids),
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=bool(request.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _score(self, pairs: Sequence[tuple[tuple[int, ...], list[int]]]) -> list[float]:
        """Summed log-probability of each continuation."""
        asked = [i for i, (_, ids) in enumerate(pairs) if ids]
        sums = [0.0] * len(pairs)
        for i, logprobs in zip(asked, prompt_logprobs(self._held[0], [[*pairs[i][0], *pairs[i][1]] for i in asked]), strict=True):
            sums[i] = sum(logprobs[-len(pairs[i][1]) :])
        return sums

    def _load(self) -> Any:
        from engines.vllm import process
        from models import canary, weights

        def start() -> Any:
            return process.start(self._config, weights.folder_of(self._model), self._seed)

        return canary.load(self._model, start, process.stop, prompt_logprobs, self._config.dtype)

    def close(self) -> None:
        """Stop the engine and free what it held."""
        from engines.vllm import process

        while self._held:
            process.stop(self._held.pop())


def prompt_logprobs(llm: Any, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """Log-probability of each token but the first of each sequence."""
    from vllm import SamplingParams, TokensPrompt

    if not sequences:
        return []
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    outputs = llm.generate([TokensPrompt(prompt_token_ids=list(ids)) for ids in sequences], params, use_tqdm=False)
    return [
        [position[id].logprob for position, id in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
        for output, ids in zip(outputs, sequences, strict=True)
    ]


@contextmanager
def open(config: Config, model: Model, *, seed: int) -> Generator[Vllm, None, None]:
    """Start an engine over `model`, check its canary, and free everything at the end, this process's settings included."""
    from engines.vllm import process

    with process.contained(config):
        engine = Vllm(config, model, seed)
        try:
            yield engine
        finally:
            engine.close()


def placement(config: Config) -> Placement:
    """One worker a replica, each with the GPUs of its tensor parallelism."""
    gpus = float(config.tensor_parallel_size) if config.device == "cuda" else 0.0
    return Placement(workers=config.replicas, gpus=gpus, cpus=config.cpus)
