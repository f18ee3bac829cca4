"""How requests are spelled for an OpenAI-compatible endpoint, and how its answers are read. Knows JSON; knows no sockets."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from engines import Completion, Request, RequestRefused, Response, _begun
from engines.openai.config import Config
from engines.openai.http import Client
from engines.openai.shapes import Chat, Choice, Models, chat_of_texts
from models import Endpoint
from models.messages import called
from pipeline.errors import Refusal

FINISHED = ("stop", "length", "content_filter")


class Spelling:
    """The requests of one engine: which fields this endpoint takes, and what its answers must hold."""

    def __init__(self, config: Config, served: Endpoint) -> None:
        self._config, self.name, self.is_vllm = config, served.name, config.extensions == "vllm"
        self.base = config.base_url.rstrip("/")
        self.context: int | None = None
        self.tokenizer: Any = None
        self.fingerprint: str | None = None
        self._stop_ids: tuple[int, ...] = ()
        self._vocabulary = 0
        if served.tokenizer is not None:
            if not self.is_vllm:
                raise Refusal(
                    f"engine openai: the model '{served.name}' was adopted with a tokenizer, and token ids come only from endpoints with "
                    "vLLM's extensions; set `extensions: vllm` in the profile, or adopt it without the tokenizer"
                )
            from transformers import AutoConfig

            from models import chat as chats
            from models import weights

            self.tokenizer = chats.load_tokenizer(served.tokenizer)
            self._vocabulary = weights.vocabulary_of(AutoConfig.from_pretrained(served.tokenizer, local_files_only=True))
            self._stop_ids = chats.stop_ids(served.tokenizer, self.tokenizer)
            self.fingerprint = chats.fingerprint(self.tokenizer)

    async def check(self, client: Client) -> None:
        """Ask vLLM what it serves; other endpoints show it with the first request."""
        if not self.is_vllm:
            return
        listed = (await client.ask("GET", f"{self.base}/models", None, Models.model_validate_json)).data
        found = {model.id: model.max_model_len for model in listed}
        if self.name not in found:
            raise Refusal(
                f"engine openai: {self.base} serves {', '.join(sorted(found)) or 'nothing'}, not '{self.name}'; "
                "adopt the name that it serves, or start it with --served-model-name"
            )
        self.context = found[self.name]

    def room(self, requests: Sequence[Request]) -> tuple[list[tuple[int, ...] | None], list[bool]]:
        """The token ids of each prompt, where they can be told here, and which responses are over before they are asked for.

        Raises PromptTooLong and RequestRefused as other engines do.
        """
        if self.tokenizer is None:
            for index, request in enumerate(requests):
                if request.begun:
                    raise _begun.refused(index, f"its response begins with {len(request.begun)} token ids, and {self._no_ids()}")
            return [None] * len(requests), [False] * len(requests)
        from models import chat as chats

        prompts = [tuple(ids) for ids in chats.render_all(self.tokenizer, [request.messages for request in requests])]
        over = _begun.over(requests, self._stop_ids, self._vocabulary)
        if self.context is not None:
            begun = [request.begun for request in requests]
            heads = [() if done else prompt + ids for prompt, ids, done in zip(prompts, begun, over, strict=True)]
            chats.check_room(heads, self.context, begun)
        return list(prompts), over

    def _no_ids(self) -> str:
        if self.is_vllm:
            return f"'{self.name}' was adopted without a tokenizer; adopt it with `tokenizer: <its folder>`"
        return "the OpenAI API takes none; use an endpoint with `extensions: vllm` that is adopted with its tokenizer, or another engine"

    async def answer(self, client: Client, request: Request, prompt: tuple[int, ...] | None, twin: int) -> Completion:
        """One request, answered; `twin` counts equal requests."""
        spread = "n" in self._config.omit and request.n > 1
        n, head = 1 if spread else request.n, None if prompt is None else prompt + request.begun
        url = f"{self.base}/completions" if request.begun else f"{self.base}/chat/completions"
        asked = [
            client.ask("POST", url, self.body(request, i, n, head), self._reader(request, n), request.n * twin + i)
            for i in range(request.n // n)
        ]
        answers: list[Chat] = await asyncio.gather(*asked)
        for answer in answers:
            if head is not None and answer.prompt_token_ids != head:
                raise RequestRefused(
                    f"{self.base}: its token ids of the prompt differ from those of the adopted tokenizer; "
                    "adopt the tokenizer and chat template that the endpoint uses"
                )
        return self._completion(request, [choice for answer in answers for choice in answer.choices], answers, prompt)

    def _completion(self, request: Request, choices: list[Choice], answers: list[Chat], prompt: tuple[int, ...] | None) -> Completion:
        made: list[Response] = []
        for choice in choices:
            ids, scores = (), ()
            if prompt is not None:
                ids = choice.token_ids or ()
                scores = tuple(token.logprob for token in (choice.logprobs and choice.logprobs.content) or ())
            made.append(self._joined(request, Response(choice.message.content or "", ids, scores, choice.finish_reason)))
        usages = [answer.usage for answer in answers if answer.usage is not None]
        details = [usage.prompt_tokens_details for usage in usages if usage.prompt_tokens_details is not None]
        return Completion(
            prompt_token_ids=prompt or (),
            responses=tuple(made),
            cached_tokens=sum(each.cached_tokens or 0 for each in details),
            counted=(sum(usage.prompt_tokens for usage in usages), sum(usage.completion_tokens for usage in usages)) if usages else None,
        )

    def _joined(self, request: Request, response: Response) -> Response:
        """With the text and the end that it has after what it begins with."""
        if not request.begun:
            return response
        from models import chat as chats

        kept = _begun.cut(self.tokenizer, request, response)
        [text] = chats.texts(self.tokenizer, [kept.token_ids], [request.stop], [request.begun])
        return replace(kept, text=text)

    def body(self, request: Request, sample: int, n: int, head: tuple[int, ...] | None) -> dict[str, Any]:
        """What is sent; `head` are the ids of the prompt and of what the response begins with, where they are known.

        A response that is begun is asked for by token ids, which `vllm serve` takes at /completions.
        """
        longest = request.max_new_tokens if self.context is None else min(request.max_new_tokens, self.context)
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [called(message) for message in request.messages],
            "temperature": request.temperature,
            "top_p": request.top_p,
            "n": n,
            # As vLLM's own engine is seeded; elsewhere seeds may be 32-bit integers.
            "seed": request.seed + sample & (1 << 62 if self.is_vllm else 1 << 31) - 1,
            self._config.max_tokens_field: longest,
        }
        if request.stop:
            body["stop"] = list(request.stop)
        for name in self._config.omit:
            if name in ("temperature", "top_p") and body[name] != 1:
                raise RequestRefused(
                    f"engine openai: {name} {body[name]:g} is asked for, and the profile's omit says that this endpoint takes none; "
                    f"ask for {name} 1 in the recipe, or use another endpoint"
                )
            del body[name]
        if self.is_vllm:
            # Whatever is left out, `vllm serve` fills in from the model's generation_config.
            body |= {"top_k": request.top_k, "min_p": 0.0, "repetition_penalty": 1.0}
            if self.tokenizer is not None:
                body |= {"return_token_ids": True, "logprobs": True, "top_logprobs": 0, "stop_token_ids": list(self._stop_ids)}
        elif request.top_k:
            raise RequestRefused(
                f"engine openai: top_k {request.top_k} is asked for, and the OpenAI API has none; use top_p, or an endpoint with "
                "`extensions: vllm`"
            )
        if head is not None and request.begun:
            for name in ("messages", "top_logprobs", self._config.max_tokens_field):
                del body[name]
            room = longest if self.context is None else min(longest, self.context - len(head))
            body |= {"prompt": list(head), "logprobs": 0, "max_tokens": room}
        return body

    def _reader(self, request: Request, n: int) -> Callable[[bytes], Chat]:
        shape = chat_of_texts if request.begun else Chat.model_validate_json

        def read(content: bytes) -> Chat:
            chat = shape(content)
            chat = chat.model_copy(update={"choices": tuple(sorted(chat.choices, key=lambda choice: choice.index))})
            if len(chat.choices) != n:
                raise RequestRefused(
                    f"{self.base}: gave {len(chat.choices)} responses where {n} were asked for; set `omit: [n]` in the engine's profile"
                )
            for choice in chat.choices:
                if choice.finish_reason not in FINISHED:
                    raise ValueError(f"finish_reason {choice.finish_reason!r}")
                if self.tokenizer is not None:
                    scores = choice.logprobs and choice.logprobs.content
                    if not choice.token_ids or len(scores or ()) != len(choice.token_ids):
                        raise ValueError("no token ids, or not a log-probability for each")
            if chat.usage and chat.usage.completion_tokens == 0 and all(choice.finish_reason == "length" for choice in chat.choices):
                refused = RequestRefused(
                    f"{self.base}: the prompt ({chat.usage.prompt_tokens} tokens) fills the context and leaves no room for a response; "
                    "shorten it, or use a model with a longer context"
                )
                refused.final = True
                raise refused
            return chat

        return read
