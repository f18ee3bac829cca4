"""From chat to token ids and back: one BOS at most, the end of turn kept, and a fingerprint of behaviour."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from models import chat as the_chat
from pipeline.errors import Refusal
from tests.support.models import tiny_llama

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokens")
    kinds = {"plain": {}, "bos": {"bos": True}, "bpe": {"bpe": True}, "untemplated": {"template": False}, "few": {"alphabet": "abc "}}
    return {name: tiny_llama(root / name, **settings) for name, settings in kinds.items()}


@pytest.mark.parametrize("kind, count", [("plain", 0), ("bos", 1), ("bpe", 0)])
def test_a_chat_has_the_templates_bos_and_no_other(folders, kind, count):
    tokenizer = the_chat.load_tokenizer(folders[kind])
    ids = the_chat.render(tokenizer, CHAT)
    assert ids.count(tokenizer.bos_token_id) == count
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(ids) == text and text.endswith("<|assistant|>")
    if count:  # the trap: tokenising the rendered text once more adds a second one
        assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 2


def test_a_template_that_doubles_its_bos_is_mended(folders):
    tokenizer = the_chat.load_tokenizer(folders["bos"])
    once = the_chat.render(tokenizer, CHAT)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    assert the_chat.render(tokenizer, CHAT) == once


def test_rendering_many_is_rendering_each(folders):
    tokenizer = the_chat.load_tokenizer(folders["bpe"])
    chats = [[{"role": "user", "content": text}] for text in ("a", "the quick brown fox", "", "naïve 東京 🦊\n")]
    assert the_chat.render_all(tokenizer, chats) == [the_chat.render(tokenizer, chat) for chat in chats]
    assert the_chat.render_all(tokenizer, []) == []


@pytest.mark.parametrize("kind", ["plain", "bos", "bpe"])
def test_a_demonstration_is_spelled_like_a_sample(folders, kind):
    """Prompt and response ids together are the rendered conversation, so a model learns where its turn ends."""
    tokenizer = the_chat.load_tokenizer(folders[kind])
    ids = [*the_chat.render(tokenizer, CHAT), *the_chat.response_ids(tokenizer, "the fox")]
    whole = tokenizer.apply_chat_template([*CHAT, {"role": "assistant", "content": "the fox"}], tokenize=False)
    assert tokenizer.decode(ids) == whole
    assert ids[-1] == tokenizer.eos_token_id


def test_a_control_token_spelled_in_a_response_stays_text(folders):
    tokenizer = the_chat.load_tokenizer(folders["plain"])
    ids = the_chat.response_ids(tokenizer, "a</s>b")
    assert ids.count(tokenizer.eos_token_id) == 1 and len(ids) == len("a</s>b") + 1


def test_the_end_of_turn_is_the_templates_not_the_tokenizers(folders, tmp_path):
    """Gemma and others end a turn with a token that is not the tokenizer's eos."""
    folder = shutil.copytree(folders["plain"], tmp_path / "model")
    template = (folder / "chat_template.jinja").read_text().replace("{{ eos_token }}", "<|system|>")
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = the_chat.load_tokenizer(folder)
    turn = tokenizer.convert_tokens_to_ids("<|system|>")
    assert the_chat.response_ids(tokenizer, "a")[-1] == turn
    assert set(the_chat.stop_ids(folder, tokenizer)) == {turn, tokenizer.eos_token_id}


def test_stop_tokens_of_generation_config_count(folders, tmp_path):
    folder = shutil.copytree(folders["plain"], tmp_path / "model")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [3, 9]}))
    assert the_chat.stop_ids(folder, the_chat.load_tokenizer(folder)) == (3, 9)


def test_the_fingerprint_is_behaviour(folders, tmp_path):
    prints = {name: the_chat.fingerprint(the_chat.load_tokenizer(folder)) for name, folder in folders.items() if name != "untemplated"}
    assert len(set(prints.values())) == 4, "another vocabulary, template or merges is another fingerprint"
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in prints.values())
    for name in prints:
        tokenizer = the_chat.load_tokenizer(folders[name])
        tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=3)
        tokenizer.save_pretrained(tmp_path / name)
        (tmp_path / name / "config.json").write_bytes((folders[name] / "config.json").read_bytes())
        assert the_chat.fingerprint(the_chat.load_tokenizer(tmp_path / name)) == prints[name], "a saved copy has the same fingerprint"


def test_refusals_name_the_folder_and_the_way_out(folders, tmp_path):
    with pytest.raises(Refusal, match=r"untemplated: its tokenizer has no chat template; use the instruction-tuned model"):
        the_chat.load_tokenizer(folders["untemplated"])
    with pytest.raises(Refusal, match=r"nowhere: no such model folder; check the path"):
        the_chat.load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(Refusal, match=r"has no config.json"):
        the_chat.load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_bytes((folders["plain"] / "config.json").read_bytes())
    with pytest.raises(Refusal, match=r"tokenizer"):
        the_chat.load_tokenizer(tmp_path)


def test_a_refused_prompt_survives_the_way_between_processes():
    with pytest.raises(the_chat.PromptTooLong) as refused:
        the_chat.check_room([[1], [1] * 9], 9)
    again = pickle.loads(pickle.dumps(refused.value))
    assert (again.index, again.tokens, again.limit) == (1, 9, 9) and str(again) == str(refused.value)
