import os
from collections.abc import Iterator

import pytest

# The whole suite shares two cores: more threads only fight each other.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread: models of a test are too small for more, and float noise is the same every time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
