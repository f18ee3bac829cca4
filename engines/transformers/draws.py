"""Random numbers by address: the number at (seed, sample, step) is the same whatever else is drawn, and in whatever order.

So a response depends on its own request alone, and not on its place in a batch. The mixer is splitmix64
(Steele, Lea and Flood, 2014, doi:10.1145/2660193.2660195).
"""

from typing import Any

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(seed: int, index: int) -> int:
    """64 well-mixed bits for the `index`-th number below `seed`."""
    z = (seed + (index + 1) * GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniforms(streams_R: Any, step_R: Any) -> Any:
    """One number in (0, 1) a row at its step, float64; NumPy uint64 arrays of `stream`s and steps."""
    import numpy as np

    z = streams_R + (step_R + np.uint64(1)) * np.uint64(GOLDEN)  # modulo 2^64
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    # 40 bits, off both ends by half a step: a product with a total can round to neither 0 nor the total.
    return ((z >> np.uint64(24)).astype(np.float64) + 0.5) * 2.0**-40


def stream(seed: int, sample: int) -> int:
    """Where the numbers of one sample start; hashed twice, so that neighbouring seeds and samples share nothing."""
    return mix(mix(seed & MASK, sample), sample)
