"""From what was observed of a tensor to the range [low, high] that its codes shall cover.

min-max     everything that was seen
percentile  all but the outermost share of values on each side
mse         the clipping that minimises the squared error over the histogram
entropy     the clipping whose quantized histogram stays closest to the true one (Kullback-Leibler), as in
            Migacz, "8-bit inference with TensorRT", GTC 2017
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from onnxdfq.calibrate.ranges import Observed

Method = Literal["min-max", "percentile", "mse", "entropy"]
PERCENTILE = 99.99
SHARES = np.linspace(1.0, 0.3, 71)  # how much of the full range a clipping may keep


def default_method(bits: int) -> Method:
    """Up to 8 bits a lone peak costs everybody else resolution; with 16 there is resolution for all."""
    return "mse" if bits <= 8 else "min-max"


def bounds(observed: Observed, method: Method, bits: int = 8) -> tuple[float, float]:
    """(low, high) for a tensor quantized to ``bits``; (0, 0) if it never held a value."""
    if not np.isfinite(observed.low):
        return 0.0, 0.0
    return _METHODS[method](observed, bits)


def _min_max(observed: Observed, bits: int) -> tuple[float, float]:
    return observed.low, observed.high


def _percentile(observed: Observed, bits: int) -> tuple[float, float]:
    share = np.cumsum(observed.counts) / observed.counts.sum()
    edges = observed.centers()
    outside = (100 - PERCENTILE) / 100
    low = edges[int(np.searchsorted(share, outside))]
    high = edges[min(int(np.searchsorted(share, 1 - outside)), len(edges) - 1)]
    return max(observed.low, min(float(low), 0.0)), min(observed.high, max(float(high), 0.0))


def _mse(observed: Observed, bits: int) -> tuple[float, float]:
    return _best_share(observed, lambda low, high: _squared_error(observed, low, high, bits))


def _entropy(observed: Observed, bits: int) -> tuple[float, float]:
    return _best_share(observed, lambda low, high: _divergence(observed, low, high, bits))


def _best_share(observed: Observed, loss: Callable[[float, float], float]) -> tuple[float, float]:
    low, high = min(observed.low, 0.0), max(observed.high, 0.0)
    losses = [loss(low * share, high * share) for share in SHARES]
    best = float(SHARES[int(np.argmin(losses))])
    return low * best, high * best


def _codes(centers: np.ndarray, low: float, high: float, bits: int) -> tuple[np.ndarray, float]:
    step = max((high - low) / (2**bits - 1), 1e-30)
    return np.rint((np.clip(centers, low, high) - low) / step), step


def _squared_error(observed: Observed, low: float, high: float, bits: int) -> float:
    centers = observed.centers()
    codes, step = _codes(centers, low, high, bits)
    inside = (centers > low) & (centers < high)
    # Within a bin values are spread out: where bins are wider than steps the centre alone would claim no error.
    error = np.where(inside, step**2 / 12, (centers - (codes * step + low)) ** 2)
    return float((observed.counts * error).sum())


def _divergence(observed: Observed, low: float, high: float, bits: int) -> float:
    """KL(true || quantized) where the true histogram, clipped, carries its outliers in the outermost bins."""
    centers = observed.centers()
    codes, _ = _codes(centers, low, high, bits)
    codes = codes.astype(np.int64)
    inside = (centers >= low) & (centers <= high) & (observed.counts > 0)
    if not inside.any():
        return np.inf
    kept = np.where(inside, observed.counts, 0).astype(np.float64)
    total = np.bincount(codes, weights=kept)
    filled = np.maximum(np.bincount(codes, weights=inside), 1)
    spread = np.where(inside, (total / filled)[codes], 0.0)
    truth = kept.copy()
    first, last = np.flatnonzero(inside)[[0, -1]]
    truth[first] += observed.counts[centers < low].sum()
    truth[last] += observed.counts[centers > high].sum()
    p, q = truth / truth.sum(), spread / spread.sum()
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))).sum())


_METHODS: dict[Method, Callable[[Observed, int], tuple[float, float]]] = {
    "min-max": _min_max,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
