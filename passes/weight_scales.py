"""The grid for the weights of a layer: how far the codes of each output channel reach.

    min-max    scale = the smallest at which nothing is clipped
    mse        a share of that, 1 down to 0.3, at which sum of h (w - q)^2 is least, q the nearest code
    lp         the same with sum of h |w - q|^2.4, which minds the large weights more (Genie, Jeon et al. 2023)

Codes are whole numbers of b bits around 0. Below 8 bits the lowest is used as well, -2^(b-1), for it is a good part of
all codes there; at 8 bits kernels want -127 to 127. h, the importance of a weight, is what its input is on average,
squared, where that is known, and else 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from passes.grid import Grid, nearest

Scales = Literal["min-max", "mse", "lp"]
SHARES = np.linspace(1.0, 0.3, 29)
POWER = {"mse": 2.0, "lp": 2.4}
SMALLEST_SCALE = 1e-10  # a channel of zeros still needs a scale above zero


def code_limits(bits: int) -> tuple[int, int]:
    """The lowest and the highest code of weights."""
    highest = 2 ** (bits - 1) - 1
    return (-highest if bits >= 8 else -highest - 1), highest


def find_grid(
    kernels: np.ndarray,
    bits: int,
    method: Scales = "min-max",
    *,
    importance: np.ndarray | None = None,
    floor: np.ndarray | float = SMALLEST_SCALE,
    whole: bool = False,
) -> Grid:
    """The grid for kernels [O, I, K]. importance: of each weight, what broadcasts to [O, I, K]. floor: scales, one or
    [O], that may not be fallen below. whole: one scale for all channels; ``Grid.scale`` is [O] all the same."""
    low, high = code_limits(bits)
    flat = kernels.reshape(len(kernels), -1).astype(np.float64)
    widest = np.maximum(flat.max(1) / high, flat.min(1) / low)
    if whole:
        widest, floor = widest.max(keepdims=True), np.max(floor)
    widest = np.broadcast_to(np.maximum(widest, floor), len(flat))
    zero = np.zeros(len(flat))
    best, least = widest, np.full(len(flat), np.inf)
    for share in SHARES if method != "min-max" else ():
        scale = np.maximum(widest * share, floor)
        grid = Grid(scale, zero, low, high)
        error = np.abs(kernels - grid.reals(nearest(kernels, grid))) ** POWER[method]
        loss = (error if importance is None else error * importance).sum((1, 2))
        loss = np.broadcast_to(loss.sum() if whole else loss, len(flat))
        best, least = np.where(loss < least, scale, best), np.minimum(loss, least)
    return Grid(best.astype(np.float32).astype(np.float64), zero, low, high)
