"""Means and standard deviations of activations by formulas instead of data.

A tensor that BatchNormalization wrote is taken as normal, each channel for itself: x ~ N(mean, std^2).

    Clip to [low, high]   A = (low - mean) / std, B = (high - mean) / std; phi, Phi: density and distribution of N(0, 1)
                          E[z]   = phi(A) - phi(B) + A Phi(A) + B (1 - Phi(B))             z: the clipped N(0, 1)
                          E[z^2] = Phi(B) - Phi(A) + A phi(A) - B phi(B) + A^2 Phi(A) + B^2 (1 - Phi(B))
    LeakyRelu, slope a    E[y] = a E[x] + (1 - a) E[r],  E[y^2] = a^2 E[x^2] + (1 - a^2) E[r^2]          r = Relu(x)
    a layer W x + b       E[y_o]   = sum_i E[x_i] sum_k W_oik + b_o
                          var[y_o] = <W, W>_o
                          <U, V>_o = sum_i var[x_i] ((1 - rho) sum_k U_oik V_oik + rho sum_k U_oik sum_k V_oik)

The last line takes channels as independent, and any two places under one kernel as correlated by rho: 0 for white
inputs, near 1 for smooth ones. Means are exact wherever the kernel does not reach over the border (Nagel et al. 2019,
section 4.2 and appendix C, for the means; the rest is derived from the same assumptions).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from passes.fold_batchnorm import ChannelStats
from passes.layer_kernels import groups_of

FAR = 38.0  # standard deviations: nothing of a normal distribution is further out, to double precision
RATIO_LIMITS = (0.1, 10.0)  # a deviation that changed by more than this says that the model of it does not hold
_erf = np.vectorize(math.erf, otypes=[np.float64])


def clipped(stats: ChannelStats, low: float, high: float) -> ChannelStats:
    """Mean and standard deviation of normal channels clipped to [low, high]; either end may be infinite."""
    std = np.maximum(stats.std, np.finfo(np.float64).tiny)  # a constant channel is a very narrow one
    with np.errstate(over="ignore"):
        start, end = (np.clip((bound - stats.mean) / std, -FAR, FAR) for bound in (low, high))
    below, above = _distribution(start), _distribution(-end)
    mean = _density(start) - _density(end) + start * below + end * above
    square = 1 - above - below + start * _density(start) - end * _density(end) + start**2 * below + end**2 * above
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return ChannelStats(np.clip(stats.mean + stats.std * mean, low, high), stats.std * spread)


def leaky(stats: ChannelStats, slope: float) -> ChannelStats:
    """Mean and standard deviation of normal channels whose negative values are multiplied by ``slope``."""
    rectified = clipped(stats, 0.0, np.inf)
    mean = slope * stats.mean + (1 - slope) * rectified.mean
    square = slope**2 * _square(stats) + (1 - slope**2) * _square(rectified)
    return ChannelStats(mean, np.sqrt(np.maximum(square - mean**2, 0)))


def averaged(stats: ChannelStats, places: int, rho: float) -> ChannelStats:
    """Of the average over so many places: the mean stays, and the variance shrinks as far as places differ."""
    return ChannelStats(stats.mean, stats.std * math.sqrt(rho + (1 - rho) / places))


def mean_shift(layer: gs.Node, kernels: np.ndarray, input_mean: np.ndarray) -> np.ndarray:
    """What ``kernels`` [O, I / groups, K] make of the means [I] of a layer's input: [O].

    Of the weights it is the mean of the output less the bias; of rounded minus float weights, how far rounding moves
    that mean.
    """
    groups = groups_of(layer)
    sums = kernels.sum(-1, dtype=np.float64).reshape(groups, -1, kernels.shape[1])
    means = np.asarray(input_mean, np.float64).reshape(groups, -1, 1)
    return _gain(layer) * (sums @ means).reshape(-1)


def covariance(
    layer: gs.Node, first: np.ndarray, second: np.ndarray, input_std: np.ndarray, rho: float
) -> np.ndarray:  # fmt: skip
    """Covariance [O] of what two sets of kernels [O, I / groups, K] make of one input with deviations [I].

    Of a ConvTranspose, whose places differ, it is that of all its taps: good for ratios.
    """
    groups = groups_of(layer)
    products = (1 - rho) * np.einsum("oik,oik->oi", first, second, dtype=np.float64)
    products += rho * first.sum(-1, dtype=np.float64) * second.sum(-1, dtype=np.float64)
    variances = np.square(input_std, dtype=np.float64).reshape(groups, -1, 1)
    return _gain(layer) ** 2 * (products.reshape(groups, -1, first.shape[1]) @ variances).reshape(-1)


def std_ratio(
    layer: gs.Node, kernels: np.ndarray, rounded: np.ndarray, input_std: np.ndarray, rho: float
) -> np.ndarray:  # fmt: skip
    """By how much rounding multiplies the standard deviation of a layer's output: [O], within 0.1..10.

    1 where either set of kernels gives a constant, for no factor makes one the other.
    """
    before, after = (covariance(layer, each, each, input_std, rho) for each in (kernels, rounded))
    known = (before > 0) & (after > 0)
    ratio = np.sqrt(np.divide(after, before, out=np.ones_like(before), where=known))
    return np.clip(ratio, *RATIO_LIMITS)


def _gain(layer: gs.Node) -> float:
    """What multiplies the sum over taps. An output of a ConvTranspose sees one of its taps in as many as its strides
    make places."""
    if layer.op == "ConvTranspose":
        return 1 / math.prod(layer.attrs.get("strides", [1]))
    return float(layer.attrs.get("alpha", 1.0)) if layer.op == "Gemm" else 1.0


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _distribution(z: np.ndarray) -> np.ndarray:
    return (1 + _erf(z / math.sqrt(2))) / 2


def _square(stats: ChannelStats) -> np.ndarray:
    return stats.mean**2 + stats.std**2
