"""Weights that do on the inputs of the quantized network what they did on those of the float one, before rounding.

With x what a layer reads in the float network, ^x what it reads in the quantized one, both less their means,

    T = W + W (C - H) (H + lambda)^-1         minimizes E |W x - T ^x|^2 + lambda |W - T|^2
    H = E[^x ^x'],  C = E[x ^x']

How far the images can be believed is asked of themselves: lambda is the one with which the T of one half of them does
best on the other half. Where none does better than W, W it stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from passes.second_order import damped

TRUSTS = (0.1, 1.0, 10.0)  # lambda, in mean variances of what is read


def refit(weights: np.ndarray, halves: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """T [G, R, D] for weights [G, R, D]. halves: H and C - H, [G, D, D], of two sets of images."""
    (first, first_cross), (second, second_cross) = halves
    moments, cross = (first + second) / 2, (first_cross + second_cross) / 2
    reached = weights @ second_cross
    losses = [_loss(_step(weights, first, first_cross, trust), second, reached) for trust in TRUSTS]
    best = int(np.argmin(losses))
    return weights + _step(weights, moments, cross, TRUSTS[best]) if losses[best] < 0 else weights


def _step(weights: np.ndarray, moments: np.ndarray, cross: np.ndarray, trust: float) -> np.ndarray:
    """T - W."""
    wanted = (weights @ cross).transpose(0, 2, 1)
    return np.asarray(np.linalg.solve(damped(moments, trust), wanted).transpose(0, 2, 1))


def _loss(step: np.ndarray, moments: np.ndarray, reached: np.ndarray) -> float:
    """E |W x - T ^x|^2 less what it is with W for T. reached: W (C - H)."""
    return float((step * (step @ moments - 2 * reached)).sum())
