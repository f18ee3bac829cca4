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


class TextLogprobs(BaseModel):
    token_logprobs: tuple[FiniteFloat, ...]


class Text(BaseModel):
    index: int
    text: str
    finish_reason: str
    logprobs: TextLogprobs
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...]


class Texts(BaseModel):
    """Of vLLM's answer to /completions with token ids, what is read."""

    choices: tuple[Text, ...] = Field(min_length=1)
    usage: Usage | None = None


def chat_of_texts(content: bytes) -> Chat:
    """An answer to /completions in the shape of one to /chat/completions."""
    made = Texts.model_validate_json(content)
    choices = tuple(
        Choice(
            index=choice.index,
            message=Message(content=choice.text),
            finish_reason=choice.finish_reason,
            logprobs=Logprobs(content=tuple(Token(token="", logprob=value) for value in choice.logprobs.token_logprobs)),
            token_ids=choice.token_ids,
        )
        for choice in made.choices
    )
    return Chat(choices=choices, usage=made.usage, prompt_token_ids=made.choices[0].prompt_token_ids)


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
