"""The two families of failure: a refusal, which the user can mend, and everything else, which is a bug.

A refusal is shown as one message without a traceback, and the process ends with exit code 2.
Its text follows one form: `<address>: <what is wrong, with the values>; <what to do>`.
"""

import errno
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_SAYS = ("No space left", "File too large", "Disk quota", "unexpected pos", "failed writing file")
"""How libraries put it whose errors are not OSErrors: safetensors, and torch's writer, which knows positions only."""
_DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)


_EXTRAS = {"ray": "ray", "vllm": "gpu", "deepspeed": "gpu"}
_WITH_TORCH = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "datasets")


class Refusal(Exception):
    """Something the user can mend. Nothing was lost, and nothing half-written is visible."""


class Problems(Refusal):
    """Several refusals found together, so that a recipe is mended once and not line by line."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))

    def __reduce__(self) -> tuple[type["Problems"], tuple[list[str]]]:
        return Problems, (list(self.problems),)


def storage(error: Exception, address: str, folder: Path) -> Refusal | None:
    """What a failure to write below `folder` means to the user; None if `error` is no such failure."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL or any(text in str(error) for text in _FULL_SAYS):
        return Refusal(f"{address}: the disk is full below {folder}; free some space and run again, finished parts are kept")
    name = error.filename if isinstance(error, OSError) else None
    if number in _DENIED:
        why = error.strerror if isinstance(error, OSError) else ""
        return Refusal(f"{address}: {name or folder} cannot be written ({why}); check its permissions")
    if number == errno.ENOTDIR and isinstance(name, str):
        for path in Path(name).parents:
            if path.is_file():
                return Refusal(f"{address}: {path} is not a folder; move it away and run again")
    return None


def missing(error: ModuleNotFoundError, address: str) -> Refusal | None:
    """What a library that is not installed means to the user; None if it is none of the optional ones."""
    name = (error.name or "").partition(".")[0]
    extra = "cpu" if name in _WITH_TORCH else _EXTRAS.get(name)
    if extra is None:
        return None
    return Refusal(f"{address}: needs {name}, which is not installed; install it with `pip install 'rematch[{extra}]'` and run again")
