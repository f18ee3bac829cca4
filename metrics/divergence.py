"""How far a policy has moved, and how sure it is: Monte Carlo estimates of KL divergence and entropy on its own samples.

Source: Schulman, "Approximating KL divergence" (2020): k1 = log p - log q has no bias and much variance; k3 = q/p - 1 - log(q/p)
has no bias, less variance, and is never negative. Both are right for untempered samples of p alone.
Legend: R response tokens of all samples, end to end; N samples.
"""

import numpy as np

Array = np.ndarray


def kl_k1_per_sequence(policy_R: Array, reference_R: Array, samples: int) -> float | None:
    """Mean over samples of sum_t (log pi - log ref), in nats; None of no samples."""
    return float(np.sum(np.subtract(policy_R, reference_R, dtype=float)) / samples) if samples else None


def kl_k1_per_token(policy_R: Array, reference_R: Array) -> float | None:
    """Mean over tokens of log pi - log ref, in nats; None of no tokens."""
    return float(np.mean(np.subtract(policy_R, reference_R, dtype=float))) if len(policy_R) else None


def kl_k3_per_token(policy_R: Array, reference_R: Array) -> float | None:
    """Mean over tokens of exp(-x) - 1 + x with x = log pi - log ref, in nats; None of no tokens."""
    x_R = np.subtract(policy_R, reference_R, dtype=float)
    return float(np.mean(np.expm1(-x_R) + x_R)) if len(x_R) else None


def entropy_per_token(entropies_R: Array) -> float | None:
    """Mean over tokens of the entropy of the whole distribution that each was drawn from, in nats; None of no tokens."""
    return float(np.mean(np.asarray(entropies_R, float))) if len(entropies_R) else None
