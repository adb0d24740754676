"""Weights in {-a, 0, +a}: ternary weight networks (Li et al. 2016).

    D = 0.7 mean|W|        code = sign(W) where |W| > D, else 0        a = mean of |W| where |W| > D

With the codes given, this a is the scale of least squares. Everything is taken over a whole layer, as published, or
over each output channel.
"""

from __future__ import annotations

import numpy as np

THRESHOLD = 0.7  # of the mean magnitude: about optimal for normal and for uniform weights


def ternary(kernels: np.ndarray, *, per_channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes (int8, of the shape [O, I / groups, K] of ``kernels``) and scales [O], all alike unless ``per_channel``.

    A channel without a single code other than 0 has a scale of 0, if scales are by channel.
    """
    axes = (1, 2) if per_channel else (0, 1, 2)
    sizes = np.abs(kernels).astype(np.float64)
    kept = sizes > THRESHOLD * sizes.mean(axes, keepdims=True)
    scale = (sizes * kept).sum(axes) / np.maximum(kept.sum(axes), 1)
    return (np.sign(kernels) * kept).astype(np.int8), np.broadcast_to(scale, kernels.shape[:1]).copy()
