"""Rounding to floats of eight and four bits, by the tables in the specification of Cast."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from onnx import TensorProto
from torch import Tensor

from onnxdfq.engine.operators.values import torch_dtype


@dataclass(frozen=True)
class _Float8:
    """largest: the largest finite value. too_large: what rounds beyond it, from here on if ``inclusive`` (a tie goes to
    the even neighbour). beyond: what such a value becomes when it does not saturate."""

    largest: float
    too_large: float
    inclusive: bool
    beyond: float


_FLOAT8: dict[int, _Float8] = {
    TensorProto.FLOAT8E4M3FN: _Float8(448.0, 464.0, False, torch.nan),
    TensorProto.FLOAT8E4M3FNUZ: _Float8(240.0, 248.0, True, torch.nan),
    TensorProto.FLOAT8E5M2: _Float8(57344.0, 61440.0, True, torch.inf),
    TensorProto.FLOAT8E5M2FNUZ: _Float8(57344.0, 61440.0, True, torch.nan),
}
LOW_FLOATS = frozenset({*_FLOAT8, TensorProto.FLOAT8E8M0, TensorProto.FLOAT4E2M1})


def largest(element_type: int) -> float:
    """The largest finite value of a float that ONNX quantizes to."""
    return 6.0 if element_type == TensorProto.FLOAT4E2M1 else _FLOAT8[element_type].largest


def to_low_float(x: Tensor, element_type: int, *, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """x in the type that carries ``element_type``, one of LOW_FLOATS; ``round_mode`` is for FLOAT8E8M0 alone."""
    x = x.to(torch.float32)
    if element_type == TensorProto.FLOAT4E2M1:
        return _to_float4(x)
    if element_type == TensorProto.FLOAT8E8M0:
        return _to_exponent(x, saturate, round_mode)
    kind = _FLOAT8[element_type]
    rounded = x.clamp(-kind.largest, kind.largest).to(torch_dtype(element_type))
    if saturate:
        return rounded
    size = x.abs()
    outside = size >= kind.too_large if kind.inclusive else size > kind.too_large
    if kind.beyond != torch.inf:
        outside = outside | x.isinf()
    return torch.where(outside, torch.copysign(torch.tensor(kind.beyond), x), rounded.float()).to(rounded.dtype)


def _to_float4(x: Tensor) -> Tensor:
    """One mantissa bit: steps of 0.5 below 2, of 1 below 4, of 2 up to 6. There is no NaN: it becomes 0."""
    x = torch.where(x.isnan(), 0.0, x)
    size = x.abs().clamp(max=6.0)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign((size / step).round() * step, x)


def _to_exponent(x: Tensor, saturate: bool, round_mode: str) -> Tensor:
    """Powers of two from 2**-127 to 2**127, without sign; zero and what is smaller becomes the smallest."""
    mantissa, exponent = torch.frexp(x.abs())  # mantissa in [0.5, 1)
    mantissa, exponent = 2 * mantissa, exponent - 1
    if round_mode == "up":
        exponent = exponent + (mantissa > 1)
    elif round_mode == "nearest":
        exponent = exponent + (mantissa >= 1.5)
    too_large = (exponent > 127) | x.isinf()
    # Built from its bits, for the smallest is below what float32 holds as a normal number.
    code = (torch.where(x == 0, -127, exponent).clamp(-127, 127) + 127).to(torch.uint8)
    invalid = x.isnan() if saturate else x.isnan() | too_large
    code = torch.where(invalid, 255, torch.where(too_large, 254, code)).to(torch.uint8)
    return code.view(torch.float8_e8m0fnu)
