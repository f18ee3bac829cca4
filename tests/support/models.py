"""Tiny but real models on disk, made by the tests themselves: nothing is downloaded.

Every model is a Hugging Face folder in safetensors, float32, with a fast tokenizer and a chat template whose
end of turn is the tokenizer's eos. Weights are drawn wide enough for different seeds to disagree clearly.
"""

from pathlib import Path
from string import printable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = ("sort these letters: the quick brown fox jumps over the lazy dog", "what is two plus two? the answer is four.") * 4


def tiny_llama(
    folder: Path,
    *,
    bos: bool = False,
    tied: bool = False,
    seed: int = 0,
    hidden_size: int = 32,
    layers: int = 2,
    alphabet: str = printable,
    bpe: bool = False,
    template: bool = True,
    context: int = 512,
) -> Path:
    """Save a Llama and its tokenizer to `folder`, and return the folder.

    `bos`: the chat template writes `<s>` itself, and so does the tokenizer when it is asked for special tokens,
    which is how a second one comes about. `bpe`: merges learned from a few sentences instead of one token per
    character. Head size is 32, the smallest that vLLM's CPU attention knows.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(bos=bos, alphabet=alphabet, bpe=bpe, template=template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=context,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_speaker(folder: Path, text: str) -> Path:
    """Save a Llama that greedily says `text`, of which no byte may occur twice, and ends its turn; a token is a byte."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_llama(folder, bpe=True, hidden_size=64, layers=1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said = [SPECIALS.index("<|assistant|>"), *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert len(said) == len(set(said)) == len(text.encode()) + 2
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for before, after in zip(said[:-1], said[1:], strict=True):
            model.lm_head.weight[after] = model.model.embed_tokens.weight[before]
    model.save_pretrained(folder)
    return folder


def tiny_reward(folder: Path, *, seed: int = 0, labels: int = 1, context: int = 512, pad: str = "pad") -> Path:
    """Save a Llama with a reward head, and its tokenizer, to `folder`, and return the folder.

    `pad` is what its config pads with: `pad` (a token of its own), `eos` or `none`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = tiny_tokenizer(bos=True)
    pads = {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id, "none": None}
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, head_dim=16,
        num_key_value_heads=1, max_position_embeddings=context, initializer_range=0.2, num_labels=labels,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=pads[pad], dtype="float32",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer(*, bos: bool = False, alphabet: str = printable, bpe: bool = False, template: bool = True) -> "PreTrainedTokenizerFast":
    """A tokenizer of one token per character of `alphabet` (others are `<unk>`), or byte-level BPE."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if bpe:
        backend = Tokenizer(models.BPE(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        initial = pre_tokenizers.ByteLevel.alphabet()
        backend.train_from_iterator(
            CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=list(SPECIALS), initial_alphabet=initial, show_progress=False)
        )
    else:
        vocab = {token: i for i, token in enumerate((*SPECIALS, *dict.fromkeys(alphabet)))}
        backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIALS.index("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    if template:
        tokenizer.chat_template = ("{{ bos_token }}" if bos else "") + TEMPLATE
    return tokenizer
