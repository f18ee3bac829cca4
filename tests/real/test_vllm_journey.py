"""Tokens, end to end, on vLLM."""

import pytest

from tests.support.journey import walk

pytestmark = pytest.mark.real


@pytest.mark.parametrize("bos", [False, True])
def test_what_is_sampled_is_what_is_trained_on(tmp_path, bos):
    walk(tmp_path / "r", {"kind": "vllm", "device": "cpu", "dtype": "float32", "kv_cache_gib": 0.5, "threads": 1}, bos=bos)
