"""Rounding that knows what a layer reads: the errors of some weights are made up for by the others.

With x the input of an output channel (a patch of D numbers), w its weights, q what they become, and H = E[x x']

    E |(w - q) x|^2  =  (w - q) H (w - q)'  =  |(w - q) R|^2          H = R R', R upper triangular

Component j of (w - q) R depends on the weights up to j alone. So the weights are rounded in order, each such that its
component is as small as the grid allows (Frantar et al., GPTQ, ICLR 2023, in the form without an inverse):

    code_j = round((w_j + sum over i < j of (w_i - q_i) R_ij / R_jj) / scale)

For a few rows that is worse than the nearest codes, which these rows get. Then each weight is looked at again while all
others stay, which is coordinate descent on the same error:

    code_j += round((w - q) H_j / H_jj / scale)
"""

from __future__ import annotations

import numpy as np

from passes.grid import Grid

BLOCK = 64  # columns between two products of whole matrices
DAMPING = 0.01  # of the mean of H's diagonal
SWEEPS = 2


def second_order(weights: np.ndarray, grid: Grid, moments: np.ndarray) -> np.ndarray:
    """Codes of weights [G, R, D]: R output channels in each of G groups. grid: of all G * R channels. moments: H of the
    input patches of each group, [G, D, D]."""
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")  # what matters most goes first
    group = np.arange(len(order))[:, None, None]
    problem = _Problem(
        weights=np.take_along_axis(weights, order[:, None], 2).astype(np.float32),
        scale=np.asarray(grid.scale, np.float32).reshape(*weights.shape[:2], 1),
        zero=np.asarray(grid.zero_point, np.float32).reshape(*weights.shape[:2], 1),
        limits=(grid.low, grid.high),
        moments=damped(moments, DAMPING)[group, order[:, :, None], order[:, None]].astype(np.float32),
    )
    codes = problem.better(problem.in_order(), problem.nearest())
    for _ in range(SWEEPS):
        if not problem.descend(codes):
            break
    restored = np.empty_like(codes)
    np.put_along_axis(restored, order[:, None], codes, 2)
    return restored


def damped(moments: np.ndarray, share: float) -> np.ndarray:
    """[G, D, D] with ``share`` of the mean of the diagonal added to the diagonal, so that it can be factored."""
    size = moments.shape[1]
    mean = np.trace(moments, axis1=1, axis2=2) / size
    # A group that reads nothing but zeros has no diagonal of its own.
    added = share * mean + 1e-3 * share * mean.mean() + 1e-12
    return moments + added[:, None, None] * np.eye(size, dtype=moments.dtype)


class _Problem:
    """Weights [G, R, D], R rows in each group, with everything that rounding them needs."""

    def __init__(
        self, weights: np.ndarray, scale: np.ndarray, zero: np.ndarray, limits: tuple[int, int], moments: np.ndarray
    ) -> None:
        self.weights, self.scale, self.zero, self.moments = weights, scale, zero, moments
        self.low, self.high = limits

    def nearest(self) -> np.ndarray:
        """The nearest code of each weight."""
        return np.clip(np.rint(self.weights / self.scale + self.zero), self.low, self.high)

    def better(self, codes: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Of each row those of the two that leave the smaller error."""
        errors = (self.weights - (each - self.zero) * self.scale for each in (codes, others))
        first, second = (((error @ self.moments) * error).sum(2, keepdims=True) for error in errors)
        return np.where(first <= second, codes, others)

    def in_order(self) -> np.ndarray:
        """Codes, one column after the other."""
        factor = np.linalg.cholesky(self.moments[:, ::-1, ::-1])[:, ::-1, ::-1]
        factor = factor / np.diagonal(factor, axis1=1, axis2=2)[:, None, :]
        codes, errors = np.empty_like(self.weights), np.zeros_like(self.weights)
        for first in range(0, codes.shape[2], BLOCK):
            block = slice(first, first + BLOCK)
            wanted = self.weights[:, :, block] + errors[:, :, :first] @ factor[:, :first, block]
            inner = factor[:, block, block]
            for j in range(wanted.shape[2]):
                column = wanted[:, :, j : j + 1] + errors[:, :, first : first + j] @ inner[:, :j, j : j + 1]
                code = np.clip(np.rint(column / self.scale + self.zero), self.low, self.high)
                codes[:, :, first + j] = code[:, :, 0]
                real = (code - self.zero) * self.scale
                errors[:, :, first + j] = (self.weights[:, :, first + j : first + j + 1] - real)[:, :, 0]
        return codes

    def descend(self, codes: np.ndarray) -> bool:
        """One sweep over all columns, in place; False when nothing moved."""
        diagonal = np.diagonal(self.moments, axis1=1, axis2=2)
        slope = (self.weights - (codes - self.zero) * self.scale) @ self.moments
        moved = False
        for first in range(0, codes.shape[2], BLOCK):
            block = slice(first, first + BLOCK)
            inner, part, before = self.moments[:, block, block], slope[:, :, block].copy(), codes[:, :, block].copy()
            for j in range(part.shape[2]):
                step = part[:, :, j : j + 1] / (diagonal[:, first + j, None, None] * self.scale)
                old = codes[:, :, first + j : first + j + 1]
                change = np.clip(np.rint(old + step), self.low, self.high) - old
                old += change
                part -= (change * self.scale) * inner[:, j : j + 1, :]
            change = codes[:, :, block] - before
            if change.any():
                moved = True
                slope -= (change * self.scale) @ self.moments[:, block]
        return moved
