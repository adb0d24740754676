"""Activation functions and softmax."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import Number, number

LOWEST = -3.4028234663852886e38  # of single precision, with which ONNX says "no bound"


@operator("Relu", since=6)
def relu(x: Tensor, *, overwrite: bool = False) -> Tensor:
    return torch.relu_(x) if overwrite else torch.relu(x)


@operator("LeakyRelu", since=6)
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@operator("PRelu", since=7)
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@operator("ThresholdedRelu", since=10)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Clip", since=6)
def clip_by_attributes(x: Tensor, *, min: float = LOWEST, max: float = -LOWEST, overwrite: bool = False) -> Tensor:
    return clip(x, min, max, overwrite=overwrite)


@operator("Clip", since=11, host=("low", "high"))
def clip(x: Tensor, low: Number | None = None, high: Number | None = None, *, overwrite: bool = False) -> Tensor:
    low, high = number(low), number(high)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        # torch wants both bounds as numbers or both as tensors; ONNX may mix a constant and a computed one.
        x = x if low is None else torch.clamp(x, min=low)
        return x if high is None else torch.clamp(x, max=high)
    if low is None or high is None or low > high or not x.is_floating_point():
        return x if low is None and high is None else torch.clamp(x, low, high)
    # The same values as clamp, with a faster backward; that wants x, so that overwriting it would only copy it before.
    return F.hardtanh(x, low, high, overwrite and not x.requires_grad)


@operator("Sigmoid", since=6)
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@operator("HardSigmoid", since=6)
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("HardSwish", since=14)
def hard_swish(x: Tensor) -> Tensor:
    return F.hardswish(x)


@operator("SwiGLU", since=28)
def swiglu(gate: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return swish(gate, alpha=alpha) * x


@operator("Shrink", since=9)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Towards zero by ``bias``; what is within ``lambd`` of zero becomes zero."""
    moved = torch.where(x < -lambd, x + bias, x - bias)
    return torch.where(x.abs() > lambd, moved, torch.zeros_like(x))


@operator("Swish", since=24)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


@operator("Tanh", since=6)
def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


@operator("Elu", since=6)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@operator("Celu", since=12)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


@operator("Selu", since=6)
def selu(x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    return gamma * F.elu(x, alpha)


@operator("Softplus", since=1)
def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


@operator("Softsign", since=1)
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@operator("Mish", since=18)
def mish(x: Tensor) -> Tensor:
    return F.mish(x)


@operator("Gelu", since=20)
@operator("Gelu", since=1, domain="com.microsoft")
def gelu(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@operator("Hardmax", since=1)
def hardmax_of_rows(x: Tensor, *, axis: int = 1) -> Tensor:
    return hardmax(_rows(x, axis)).reshape(x.shape)


@operator("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """One at the first of the largest elements along ``axis``, zero elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


@operator("Softmax", since=1)
def softmax_of_rows(x: Tensor, *, axis: int = 1) -> Tensor:
    return torch.softmax(_rows(x, axis), -1).reshape(x.shape)


@operator("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@operator("LogSoftmax", since=1)
def log_softmax_of_rows(x: Tensor, *, axis: int = 1) -> Tensor:
    return torch.log_softmax(_rows(x, axis), -1).reshape(x.shape)


@operator("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


def _rows(x: Tensor, axis: int) -> Tensor:
    """Before opset 13 the axes from ``axis`` on were one: softmax ran over all of them together."""
    axis = axis % x.ndim
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
