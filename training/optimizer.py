"""An optimizer's state in safetensors beside a model, for a training that goes on with it (EGPO's second half-step)."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import Refusal

FILE = Path("optimizer") / "state.safetensors"
"""In a folder of its own: whoever loads the model takes every safetensors file that lies beside it."""


def save(optimizer: torch.optim.Optimizer, names: list[str], parameters: list[Tensor], out: Path) -> None:
    """Write what the optimizer holds of each parameter, as `name/what`."""
    found: dict[str, Tensor] = {}
    for name, parameter in zip(names, parameters, strict=True):
        for what, value in optimizer.state[parameter].items():
            found[f"{name}/{what}"] = torch.as_tensor(value).detach().cpu().contiguous()
    (out / FILE).parent.mkdir()
    save_file(found, out / FILE)


def load(optimizer: torch.optim.Optimizer, names: list[str], parameters: list[Tensor], folder: Path) -> None:
    """Give the optimizer what another left for the same parameters. Raises Refusal if it left nothing, or other ones."""
    if not (folder / FILE).is_file():
        raise Refusal(f"optimizer: {folder} holds no optimizer state; set `keep_optimizer: true` on the node that trained it")
    stored: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / FILE).items():
        name, _, what = key.rpartition("/")
        stored.setdefault(name, {})[what] = value
    strange = sorted(set(stored) ^ set(names))
    if strange:
        raise Refusal(
            f"optimizer: the state in {folder} is of other parameters ({len(strange)} differ, such as {strange[0]!r}); train the same model"
        )
    for name, parameter in zip(names, parameters, strict=True):
        for what, value in stored[name].items():
            if what != "step" and value.shape != parameter.shape:
                raise Refusal(f"optimizer: {what} of {name!r} in {folder} has shape {tuple(value.shape)}, here {tuple(parameter.shape)}")
            # A fused optimizer counts its steps on the parameter's device.
            optimizer.state[parameter][what] = value.clone().to(parameter.device)
