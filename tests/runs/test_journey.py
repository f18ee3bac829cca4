"""Tokens, end to end, on the engine for laptops; tests/real/test_vllm_journey.py does the same on vLLM."""

import pytest

from tests.support.journey import walk


@pytest.mark.parametrize("bos", [False, True])
def test_what_is_sampled_is_what_is_trained_on(tmp_path, bos):
    walk(tmp_path / "r", {"kind": "transformers"}, bos=bos)
