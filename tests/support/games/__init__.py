"""Small games in which the promises of self-play can be measured exactly, played with the trainer's own objectives.

A policy is a softmax over a handful of one-token responses, and the judge is a matrix: P[i, j] = P(i beats j). Every
step is the gradient of a loss in objectives/, on a Batch as the trainer makes them; only the sampling is exact (each
pair counts by its probability) or simulated with a seed. docs/games.md says what comes out.

Shapes: N responses, T steps. Policies are log-probabilities in float64; prefix log_ and suffix _N say so.
"""
