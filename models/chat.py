"""The one place where a chat becomes token ids, and token ids become text.

Engines and trainers go through here, so that what is sampled, what is scored and what is trained on are the
same ids. Knows tokenizers; knows no model and no engine.
"""

import json
from collections.abc import Iterable, Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any, AnyStr

from blake3 import blake3

from models.messages import Message, called
from pipeline.errors import Refusal


class PromptTooLong(Refusal):
    """A prompt fills the context, so that nothing can be generated after it."""

    def __init__(self, index: int, tokens: int, limit: int, begun: int = 0) -> None:
        super().__init__(index, tokens, limit, begun)
        self.index, self.tokens, self.limit, self.begun = index, tokens, limit, begun

    def __str__(self) -> str:
        what = f"its prompt and the {self.begun} tokens that its response begins with have" if self.begun else "its prompt has"
        return (
            f"request {self.index}: {what} {self.tokens} tokens and the context holds {self.limit}, which leaves no room "
            f"for {'more' if self.begun else 'a response'}; shorten the prompt, or use a model with a longer context"
        )


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a Hugging Face folder. Raises Refusal if there is none, or if it has no chat template."""
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise Refusal(f"{folder}: no such model folder; check the path, or build the step that makes it")
    if not (folder / "config.json").is_file():
        raise Refusal(f"{folder}: has no config.json, so it is not a Hugging Face model folder; point to the folder that holds it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise Refusal(f"{folder}: its tokenizer cannot be loaded ({error}); save one there with `save_pretrained`") from error
    if not getattr(tokenizer, "is_fast", False):
        raise Refusal(f"{folder}: has no tokenizer.json; save its fast tokenizer there with `save_pretrained`")
    if not tokenizer.chat_template:
        raise Refusal(
            f"{folder}: its tokenizer has no chat template; use the instruction-tuned model, or put a chat_template.jinja in that folder"
        )
    return tokenizer


def _bad_template(tokenizer: Any, error: Exception) -> Refusal:
    where = tokenizer.name_or_path or "tokenizer"
    return Refusal(f"{where}: its chat template does not take these messages ({error}); mend the template, or the roles of the prompts")


def render(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat up to where the assistant starts to speak."""
    return render_all(tokenizer, [messages])[0]


def render_all(tokenizer: Any, chats: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Token ids of each chat up to where the assistant starts to speak, with at most one BOS: the template's."""
    from jinja2 import TemplateError

    if not chats:
        return []
    if not tokenizer.chat_template:
        where = tokenizer.name_or_path or "tokenizer"
        raise Refusal(f"{where}: has no chat template; use the instruction-tuned model, or put a chat_template.jinja in that folder")
    given = [_for_template(tokenizer, chat) for chat in chats]
    try:
        rendered = tokenizer.apply_chat_template(given, tokenize=True, add_generation_prompt=True, return_dict=True)
    except (TemplateError, TypeError) as error:  # templates raise what they like over the shape of a call
        raise _bad_template(tokenizer, error) from error
    return [_one_bos(list(ids), tokenizer.bos_token_id) for ids in rendered["input_ids"]]


def written(tokenizer: Any, messages: Sequence[Message], *, speak: bool) -> str:
    """The chat as the template writes it; with `speak`, up to where the assistant starts to."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(_for_template(tokenizer, messages), tokenize=False, add_generation_prompt=speak)
    except (TemplateError, TypeError) as error:
        raise _bad_template(tokenizer, error) from error


def _for_template(tokenizer: Any, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as a template takes them: calls of tools as data, and no key at all where there are none."""
    given = [called(message) for message in messages]
    if any("tool_calls" in message for message in given) and not _takes_calls(tokenizer):
        raise Refusal(
            f"{tokenizer.name_or_path or 'tokenizer'}: its chat template writes no tool calls, and these messages have some; "
            "use a model whose template does, or leave them out"
        )
    return given


def _takes_calls(tokenizer: Any) -> bool:
    """Whether the template writes tool calls, or complains of these: one that knows nothing of them leaves them out in silence."""
    known = getattr(tokenizer, "_rematch_takes_calls", None)
    if known is None:
        from jinja2 import TemplateError

        call = {"id": "call00001", "type": "function", "function": {"name": "zqzqz", "arguments": {"a": "b"}}}
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        try:
            known = "zqzqz" in tokenizer.apply_chat_template(chat, tokenize=False)
        except (TemplateError, TypeError):
            known = True
        tokenizer._rematch_takes_calls = known
    return known


def _one_bos(ids: list[int], bos: int | None) -> list[int]:
    start = 0
    while bos is not None and ids[start : start + 2] == [bos, bos]:
        start += 1
    return ids[start:]


def check_room(prompts: Iterable[Sequence[int]], limit: int, begun: Sequence[Sequence[int]] = ()) -> None:
    """Raises PromptTooLong for the first prompt that leaves no room for a token in a context of `limit`.

    `begun` are the last ids of each prompt, which its response begins with.
    """
    for index, ids in enumerate(prompts):
        if len(ids) >= limit:
            raise PromptTooLong(index, len(ids), limit, len(begun[index]) if begun else 0)


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text: nothing in it is read as a control token, and none is added."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def response_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a response that no engine sampled (a demonstration), with the end of turn that the model has to learn."""
    return [*text_ids(tokenizer, text), end_of_turn(tokenizer)]


def end_of_turn(tokenizer: Any) -> int:
    """The control token that the template writes after what the assistant said; the tokenizer's eos if it writes none."""
    known = getattr(tokenizer, "_rematch_end_of_turn", None)
    if known is None:
        known = tokenizer._rematch_end_of_turn = _find_end_of_turn(tokenizer)
    return known


def _find_end_of_turn(tokenizer: Any) -> int:
    from jinja2 import TemplateError

    mark = "zqzqz"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
    try:
        tail = tokenizer.apply_chat_template(chat, tokenize=False).rpartition(mark)[2]
    except TemplateError as error:
        raise _bad_template(tokenizer, error) from error
    controls = control_ids(tokenizer)
    for id in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if id in controls:
            return int(id)
    if tokenizer.eos_token_id is None:
        where = tokenizer.name_or_path or "tokenizer"
        raise Refusal(
            f"{where}: neither the chat template nor the tokenizer says how a turn ends; set an eos_token in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def control_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens that no text can spell."""
    known = getattr(tokenizer, "_rematch_control_ids", None)  # of a large vocabulary the tokenizer takes a while to tell
    if known is None:
        known = tokenizer._rematch_control_ids = frozenset(id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
    return known


def stop_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """All tokens that end a response: the template's, the tokenizer's, and those of generation_config.json and config.json."""
    found = {end_of_turn(tokenizer)}
    if tokenizer.eos_token_id is not None:
        found.add(int(tokenizer.eos_token_id))
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            eos = json.loads((folder / name).read_text()).get("eos_token_id")
            found.update(eos if isinstance(eos, list) else [] if eos is None else [eos])
    return tuple(sorted(found))


def texts(
    tokenizer: Any, token_ids: Sequence[Sequence[int]], stops: Sequence[tuple[str, ...]], begun: Sequence[Sequence[int]] | None = None
) -> list[str]:
    """The text of each response without control tokens, cut before the first of its stop strings.

    With `begun`, ids that each response begins with: what follows their `begun_text`. Both are decoded together, for a
    tokenizer may merge bytes, or strip a space, across the border. Stop strings that lie wholly in it are passed over.
    """
    if not token_ids:
        return []
    befores = [tuple(ids) for ids in begun] if begun is not None else [()] * len(token_ids)
    heads = {ids: begun_text(tokenizer, ids) for ids in set(befores)}
    decoded = _decode_all(tokenizer, [[*before, *ids] for before, ids in zip(befores, token_ids, strict=True)])
    found: list[str] = []
    for text, before, stop in zip(decoded, befores, stops, strict=True):
        head, cut = heads[before], first_stop(text, stop, heads[before])
        # A byte-fallback decoder takes back what it has said when bytes that are no character follow.
        found.append(text[len(commonprefix([text, head])) : cut])
    return found


def begun_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids that a response begins with, without a last character of which they hold only some bytes."""
    return _decode_all(tokenizer, [list(ids)])[0].rstrip("\ufffd") if ids else ""


def first_stop(text: AnyStr, stop: Sequence[AnyStr], head: AnyStr) -> int | None:
    """Where in `text`, which begins with `head`, the first stop string begins that does not lie wholly in `head`."""
    start = max((head.rfind(end) + len(end) for end in stop if end in head), default=0)
    return min((at for end in stop if (at := text.find(end, start)) >= 0), default=None)


def _decode_all(tokenizer: Any, token_ids: list[list[int]]) -> list[str]:
    return tokenizer.batch_decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def fingerprint(tokenizer: Any) -> str:
    """16 hex digits over what the tokenizer does: vocabulary, merges, added tokens, control tokens and chat template.

    File names and states of use (padding, truncation) are left out, so a saved copy has the same fingerprint. So is
    the post-processor, which acts only when special tokens are asked for, and here they never are.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("version", "truncation", "padding", "post_processor"):
        backend.pop(name, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    behaviour = {"backend": backend, "special": special, "template": tokenizer.chat_template}
    return blake3(json.dumps(behaviour, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def chat_ids(tokenizer: Any, prompt: Sequence[Message], response: str | None = None) -> list[int]:
    """The chat as the model's template writes it, with at most one BOS; of the prompt alone without a response.

    Nobody in it can spell a control token.
    """
    chat: list[Message] = list(prompt) if response is None else [*prompt, {"role": "assistant", "content": response}]
    given = [_all_plain(tokenizer, message) for message in _for_template(tokenizer, chat)]
    ids = list(tokenizer.apply_chat_template(given, tokenize=True, return_dict=True)["input_ids"])
    bos = tokenizer.bos_token_id
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def _all_plain(tokenizer: Any, value: Any) -> Any:
    """A message with every text in it plain, those of its tool calls too."""
    if isinstance(value, str):
        return _plain(tokenizer, value)
    if isinstance(value, dict):
        return {name: each if name == "role" else _all_plain(tokenizer, each) for name, each in value.items()}
    return [_all_plain(tokenizer, each) for each in value] if isinstance(value, list) else value


def _plain(tokenizer: Any, text: str) -> str:
    known = getattr(tokenizer, "_rematch_controls", None)  # asking the tokenizer takes a while, and chats are many
    if known is None:
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        known = tokenizer._rematch_controls = sorted(added.union(tokenizer.all_special_tokens), key=lambda token: -len(token))
    for token in known:
        text = text.replace(token, " ")
    return text
