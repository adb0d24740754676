"""Normalization layers, always in inference mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator


@operator("BatchNormalization", since=7, frozen=("mean", "var"))
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: Literal[0] = 0,
) -> Tensor:
    """x [N, C, ...]; the other inputs [C], or [C, ...] where an old model has statistics of every position."""
    if not spatial:
        return (x - mean) * torch.rsqrt(var + epsilon) * scale + bias
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)


@operator("InstanceNormalization", since=6)
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """x [N, C, ...]; scale and bias [C]."""
    return _per_channel(_standardize(x, list(range(2, x.ndim)), epsilon)[0], scale, bias)


@operator("GroupNormalization", since=18)
def group_normalization_by_group(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """x [N, C, ...]; scale and bias [num_groups]."""
    repeats = x.shape[1] // num_groups
    scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
    return group_normalization(x, scale, bias, num_groups=num_groups, epsilon=epsilon)


@operator("GroupNormalization", since=21)
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """x [N, C, ...]; scale and bias [C]."""
    grouped = x.reshape(x.shape[0], num_groups, -1)
    return _per_channel(_standardize(grouped, [2], epsilon)[0].reshape(x.shape), scale, bias)


@operator("LayerNormalization", since=17)
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int,
) -> tuple[Tensor, ...]:
    """Normalize over the axes from ``axis`` on; also the mean and 1 / deviation, if the node lists them."""
    shape = x.shape[axis % x.ndim :]
    if outputs == 1 and scale.shape == shape and (bias is None or bias.shape == shape):
        return (F.layer_norm(x, shape, scale, bias, epsilon),)
    normal, mean, inverse = _standardize(x, list(range(x.ndim - len(shape), x.ndim)), epsilon)
    y = normal * scale if bias is None else normal * scale + bias
    return (y, mean, inverse)[:outputs]


@operator("RMSNormalization", since=23)
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Divide by the root mean square over the axes from ``axis`` on; scale broadcasts to them."""
    dims = list(range(axis % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(dims, keepdim=True) + epsilon) * scale


@operator("LpNormalization", since=1)
def lp_normalization(x: Tensor, *, axis: int = -1, p: Literal[1, 2] = 2) -> Tensor:
    return F.normalize(x, p=p, dim=axis, eps=1e-12)


@operator("MeanVarianceNormalization", since=9)
def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    dims = list(axes)
    centred = x - x.mean(dims, keepdim=True)
    return centred / (centred.square().mean(dims, keepdim=True).sqrt() + 1e-9)


@operator("LRN", since=1)
def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """x [N, C, ...]: divide by a power of the squares summed over ``size`` neighbouring channels."""
    channels_last = x.square().movedim(1, -1)
    windows = F.pad(channels_last, [(size - 1) // 2, size // 2]).unfold(-1, size, 1)
    return x / (bias + alpha / size * windows.sum(-1).movedim(-1, 1)).pow(beta)


def _standardize(x: Tensor, dims: list[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Zero mean and unit variance over ``dims``; also the mean and 1 / deviation, with the axes kept."""
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    return (x - mean) * inverse, mean, inverse


def _per_channel(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return x * scale.reshape(shape) + bias.reshape(shape)
