"""Merges the safetensors folders of several models into one, a piece of a tensor at a time: the models are never in memory.

The layout is that of the first model: its files, their headers byte for byte, and its index. A safetensors file is the
length of its header (8 bytes, little endian), the header (JSON: dtype, shape and place of each tensor) and the tensors.
A weight that two layers share is stored once in such a folder, and so it is merged once.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.artifact import Facts
from pipeline.errors import Refusal

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
COPIED = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
PIECE = 2**22
"""Weights that are merged at once."""
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Place:
    """Where a tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Byte of the file."""
    stop: int


def files(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face folder: those that its index names, or the only one."""
    if (folder / INDEX).is_file():
        names = json.loads((folder / INDEX).read_text())["weight_map"].values()
        return [folder / name for name in dict.fromkeys(names)]
    if not (folder / "model.safetensors").is_file():
        raise Refusal(f"{folder}: has neither model.safetensors nor {INDEX}; save the model again with `save_pretrained`")
    return [folder / "model.safetensors"]


def header(file: Path) -> tuple[bytes, dict[str, Place]]:
    """All bytes before the tensors, and the tensors in the order in which they lie there. Raises Refusal if the file is not whole."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise Refusal(f"{file}: cannot be read as safetensors ({error}); save the model again, or build its step again") from error
    with file.open("rb") as source:
        length = source.read(8)
        text = source.read(int.from_bytes(length, "little"))
    first = 8 + len(text)
    body = {name: value for name, value in json.loads(text).items() if name != "__metadata__"}
    places = {
        name: Place(file, value["dtype"], tuple(value["shape"]), *(first + at for at in value["data_offsets"]))
        for name, value in body.items()
    }
    return length + text, dict(sorted(places.items(), key=lambda each: (each[1].start, each[1].stop)))


def merge(folders: Sequence[Path], names: Sequence[str], combine: Callable[[Sequence[Tensor]], Tensor], out: Path) -> Facts:
    """Write the weights of `combine` below `out`; whole numbers and flags are those of the first model.

    `combine` gets one piece of a tensor from each model, flat. `names` are what messages call the models. Facts:
    tensors, parameters, copied tensors, and |merged - first| / |first| over all weights.
    """
    models = [{name: place for file in files(folder) for name, place in header(file)[1].items()} for folder in folders]
    if problems := [text for other, called in zip(models[1:], names[1:], strict=True) for text in _differences(models[0], other, called)]:
        raise Refusal(f"{names[0]} cannot be merged: {'; '.join(problems)}; merge models that come from one")
    tensors = parameters = copied = 0
    change = norm = 0.0
    for file in files(folders[0]):
        head, inside = header(file)
        with (out / file.name).open("wb") as sink:
            sink.write(head)
            for name, place in inside.items():
                tensors += 1
                parameters += math.prod(place.shape)
                if place.dtype in COPIED:
                    copied += 1
                    sink.write(_read(place, 0, place.stop - place.start))
                    continue
                for pieces in _pieces([model[name] for model in models]):
                    made = combine(pieces)
                    sink.write(made.view(torch.uint8).numpy().tobytes())
                    change += float((made.double() - pieces[0].double()).square().sum())
                    norm += float(pieces[0].double().square().sum())
    if (folders[0] / INDEX).is_file():
        (out / INDEX).write_bytes((folders[0] / INDEX).read_bytes())
    relative = math.sqrt(change / norm) if norm else math.sqrt(change)
    return {"tensors": tensors, "parameters": parameters, "copied_tensors": copied, "relative_change": relative}


def _differences(first: dict[str, Place], other: dict[str, Place], called: str) -> list[str]:
    """Why another model cannot be merged with the first; floats of different width can, they are computed in float32."""
    unmatched = sorted(first.keys() ^ other.keys())
    found = [f"{len(unmatched)} tensors stand in one of it and {called} alone, {unmatched[0]!r} among them"] if unmatched else []
    both = [name for name in first if name in other]
    shapes = [name for name in both if first[name].shape != other[name].shape]
    if shapes:
        found.append(f"{shapes[0]!r} is {list(first[shapes[0]].shape)}, and {list(other[shapes[0]].shape)} in {called}")
    kinds = [name for name in both if not _compatible(first[name].dtype, other[name].dtype)]
    if kinds:
        a, b = first[kinds[0]].dtype, other[kinds[0]].dtype
        found.append(f"{kinds[0]!r} is {a}" + (", which is not merged" if a == b else f", and {b} in {called}"))
    return found


def _compatible(a: str, b: str) -> bool:
    return (a in FLOATS and b in FLOATS) or (a == b and a in COPIED)


def _pieces(places: Sequence[Place]) -> Iterator[list[Tensor]]:
    """The same piece of a tensor from each model, piece after piece."""
    count = math.prod(places[0].shape)
    for at in range(0, count, PIECE):
        size = min(PIECE, count - at)
        yield [torch.frombuffer(_part(place, at, size), dtype=FLOATS[place.dtype]) for place in places]


def _part(place: Place, at: int, size: int) -> bytearray:
    width = FLOATS[place.dtype].itemsize
    return _read(place, at * width, size * width)


def _read(place: Place, at: int, size: int) -> bytearray:
    with place.file.open("rb") as source:
        source.seek(place.start + at)
        return bytearray(source.read(size))
