"""What is read of an endpoint's answers; whatever else they hold is passed over. A wrong shape is a ValueError."""

from typing import Any

from pydantic import BaseModel, Field, FiniteFloat


class Token(BaseModel):
    token: str
    logprob: FiniteFloat
    top_logprobs: tuple["Token", ...] = ()


class Logprobs(BaseModel):
    content: tuple[Token, ...] | None = None


class Message(BaseModel):
    content: str | None = None


class Choice(BaseModel):
    index: int
    message: Message
    finish_reason: str
    logprobs: Logprobs | None = None
    token_ids: tuple[int, ...] | None = None


class Cached(BaseModel):
    cached_tokens: int | None = None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: Cached | None = None


class Chat(BaseModel):
    """Of an answer to /chat/completions, what is read."""

    choices: tuple[Choice, ...] = Field(min_length=1)
    usage: Usage | None = None
    prompt_token_ids: tuple[int, ...] | None = None


class Scored(BaseModel):
    index: int
    prompt_logprobs: tuple[dict[int, dict[str, Any]] | None, ...]


class Scores(BaseModel):
    """Of vLLM's answer to /completions with prompt_logprobs, what is read."""

    choices: tuple[Scored, ...]


class Tokenized(BaseModel):
    """Of vLLM's answer to /tokenize, what is read."""

    tokens: tuple[int, ...]


class Served(BaseModel):
    id: str
    max_model_len: int | None = None


class Models(BaseModel):
    """Of an answer to /models, what is read."""

    data: tuple[Served, ...]
