"""From float weights to integer codes on a given grid: nearest, and SQuant.

nearest    code = clip(round(w / scale) + zero_point). Each weight for itself; the errors of a kernel may add up.
squant     Guo et al., SQuant, ICLR 2022: the Hessian of a layer's error is taken as a sum of three parts, one for each
           element, one for each kernel and one for each output channel. That asks of the errors e = code - w / scale

               |e| < 1      |sum of e over a kernel| <= 1/2      |sum of e over an output channel| <= 1/2

           and is met by rounding some elements to the other side, those first whose e is largest:

               kernel  e =  .4  .3  .4 -.2     sum .9     ->   one down:    -.6  .3  .4 -.2     sum -.1

    W -> Q(s) -> DQ(s) -> Conv       becomes       W on its grid -> Q(s) -> DQ(s) -> Conv

Weights are [O, I, K], codes are float64 whole numbers of the same shape; everything is done for all channels at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult, Skip
from passes.grid import Grid, nearest
from passes.layer_kernels import as_stored, kernels_of
from passes.weight_quantizer import weight_quantizer
from passes.weight_scales import code_limits

AT_ONCE = 2**18  # weights: a few arrays of such a size fit into a cache, and large layers need no more memory


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Put the float weights behind the quantizers of ``bits`` (by layer) on the grid of their scales."""

    name: ClassVar[str] = "round-weights"
    method: str
    bits: Mapping[str, int]

    def __call__(self, graph: gs.Graph) -> PassResult:
        changed, skips = 0, []
        for layer in [node for node in graph.nodes if node.name in self.bits]:
            place = weight_quantizer(layer)
            if isinstance(place, str):
                skips.append(Skip(layer.name, self.name, f"rounded to nearest: {place}"))
                continue
            kernels = kernels_of(layer, place.weights.values).astype(np.float64)
            limits = code_limits(self.bits[layer.name])
            grid = Grid(place.scale.values.astype(np.float64), np.zeros(len(kernels)), *limits)
            rounded = grid.reals(METHODS[self.method](kernels, grid))
            place.set(as_stored(layer, rounded, place.weights.values.shape), grid.scale)
            changed += 1
        return PassResult(changed, tuple(skips))


def squant(kernels: np.ndarray, grid: Grid) -> np.ndarray:
    """Codes [O, I, K] by SQuant (section 3 of the paper: its stages K and C after rounding to nearest)."""
    rows = max(1, AT_ONCE // kernels[0].size)
    parts = [slice(first, first + rows) for first in range(0, len(kernels), rows)]
    return np.concatenate([_squant(kernels[part], grid.part(part)) for part in parts])


def _squant(kernels: np.ndarray, grid: Grid) -> np.ndarray:
    exact = grid.codes(kernels.astype(np.float64))
    codes = np.clip(np.rint(exact), grid.low, grid.high)
    error = codes - exact
    candidates = _round_kernels(codes, error, grid) if kernels.shape[2] > 1 else np.ones(codes.shape, bool)
    flat_codes, flat_error = codes.reshape(len(codes), -1), error.reshape(len(error), -1)
    total = flat_error.sum(1, keepdims=True)
    flips = _largest(flat_error, total, candidates.reshape(flat_codes.shape) & _can_move(flat_codes, flat_error, grid))
    flat_codes -= flips * np.sign(total)
    return flat_codes.reshape(codes.shape)


def _round_kernels(codes: np.ndarray, error: np.ndarray, grid: Grid) -> np.ndarray:
    """Stage K, in place, for every kernel; returns the one element of each that stage C may move."""
    total = error.sum(2, keepdims=True)
    direction = np.sign(total)
    movable = _can_move(codes, error, grid) & (np.sign(error) == direction)
    count = np.minimum(np.rint(np.abs(total)), movable.sum(2, keepdims=True))
    rank = _rank(error, movable)
    flips = rank < count
    codes -= flips * direction
    error -= flips * direction
    # Moved too far: the last one may go back. Not far enough: the next one may follow.
    chosen = np.where(count >= np.abs(total), count - 1, count)
    return (rank == chosen) & movable & (total != 0)


def _largest(error: np.ndarray, total: np.ndarray, movable: np.ndarray) -> np.ndarray:
    """Of every row the elements to move: as many as bring ``total`` nearest to 0, the largest errors first."""
    towards = movable & (np.sign(error) == np.sign(total))
    return _rank(error, towards) < np.rint(np.abs(total))


def _rank(error: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The place of each element of the last axis when errors are sorted, largest first; of others it is beyond."""
    priority = np.where(among, np.abs(error), -1.0)
    rank = np.argsort(np.argsort(-priority, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.where(among, rank, error.shape[-1])


def _can_move(codes: np.ndarray, error: np.ndarray, grid: Grid) -> np.ndarray:
    """Whether a code may go one step against its error and stay on the grid."""
    moved = codes - np.sign(error)
    return (error != 0) & (moved >= grid.low) & (moved <= grid.high)


METHODS: Mapping[str, Callable[[np.ndarray, Grid], np.ndarray]] = {"nearest": nearest, "squant": squant}
