"""How sure a level is of its answer: what decides whether a dearer one is asked."""

from __future__ import annotations

import numpy as np


def margins(scores: np.ndarray, *, probabilities: bool) -> np.ndarray:
    """[N] float32: probability of the first class less that of the second, from scores [N, K]. The graph that
    decides by itself does the same in the same type, see single_file.py, up to the last bit of an exponential."""
    values = scores.reshape(len(scores), -1).astype(np.float32)
    if not probabilities:
        values = np.exp(values - values.max(1, keepdims=True))
        values /= values.sum(1, keepdims=True)
    highest = np.partition(values, -2, axis=1)
    margin: np.ndarray = highest[:, -1] - highest[:, -2]
    return margin
