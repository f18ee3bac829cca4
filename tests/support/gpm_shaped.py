"""A random General Preference Model, made on the spot, and the plainest way to run one.

`reference` follows the published example (arXiv:2410.02197) one response at a time: no batch, no padding, no cache.
"""

from collections.abc import Callable
from pathlib import Path

from tests.support.models import tiny_llama


def gpm_shaped(folder: Path, *, width: int = 4, gate: bool = False, seed: int = 0, **model: object) -> Path:
    """Save a Llama with its tokenizer and the heads of a preference model to `folder`."""
    import torch
    from safetensors.torch import load_file, save_file

    tiny_llama(folder, bos=True, seed=seed, **model)
    weights = load_file(folder / "model.safetensors")
    draw = torch.Generator().manual_seed(seed)
    weights["value_head.weight"] = torch.randn(width, weights["model.norm.weight"].shape[0], generator=draw)
    if gate:
        weights["prompt_head.weight"] = torch.randn(width // 2, weights["model.norm.weight"].shape[0], generator=draw)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def reference(folder: Path, *, max_length: int = 4096) -> Callable[[str, str], tuple[list[float], list[float] | None]]:
    """A function (prompt, response) -> (embedding, gate or None) that runs one response alone."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model.eval()

    def embed(prompt: str, response: str) -> tuple[list[float], list[float] | None]:
        user = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template([*user, {"role": "assistant", "content": response}], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:max_length]
        before = len(tokenizer(tokenizer.apply_chat_template(user, tokenize=False), add_special_tokens=False)["input_ids"])
        ids[-1] = tokenizer.eos_token_id
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        vector = weights["value_head.weight"] @ hidden[-1]
        gate = None
        if "prompt_head.weight" in weights:
            gate = torch.softmax(weights["prompt_head.weight"] @ hidden[min(before, len(ids)) - 1], dim=0).tolist()
        return (vector / vector.norm()).tolist(), gate

    return embed


def score(first: list[float], second: list[float], gate: list[float] | None) -> float:
    """s(first > second), block by block."""
    blocks = range(len(first) // 2)
    return sum((1.0 if gate is None else gate[k]) * (first[2 * k] * second[2 * k + 1] - first[2 * k + 1] * second[2 * k]) for k in blocks)
