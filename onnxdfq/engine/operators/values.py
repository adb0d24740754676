"""ONNX tensors as torch tensors and back, and numbers that may be constants or tensors."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from onnxdfq.errors import OnnxdfqError

# What a ``host`` input holds: Python numbers where the model has a constant, else a tensor made by the graph.
Ints = Tensor | list[int] | int
Number = Tensor | list[float] | float

# Integers narrower than a byte are carried in one; unsigned ones that torch cannot compute with in a wider signed type
# (64 bits have none: beyond 2**63 they compare as negative); four-bit floats, of which torch has none, as floats.
_CARRIED: dict[int, torch.dtype] = {
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    TensorProto.FLOAT4E2M1: torch.float32,
}
_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    TensorProto.FLOAT8E8M0: torch.float8_e8m0fnu,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
}
_OUTSIDE: dict[int, torch.dtype] = {
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
}
# Bits and signedness of the integers.
INTEGERS: dict[int, tuple[int, bool]] = {
    TensorProto.INT2: (2, True),
    TensorProto.UINT2: (2, False),
    TensorProto.INT4: (4, True),
    TensorProto.UINT4: (4, False),
    TensorProto.INT8: (8, True),
    TensorProto.UINT8: (8, False),
    TensorProto.INT16: (16, True),
    TensorProto.UINT16: (16, False),
    TensorProto.INT32: (32, True),
    TensorProto.UINT32: (32, False),
    TensorProto.INT64: (64, True),
    TensorProto.UINT64: (64, False),
}


def torch_dtype(element_type: int) -> torch.dtype:
    """The torch type that carries an ONNX element type inside the graph. Raises OnnxdfqError for text, complex
    numbers, sequences and optionals."""
    dtype = _CARRIED.get(element_type) or _DTYPES.get(element_type)
    if dtype is None:
        name = TensorProto.DataType.Name(element_type) if element_type else "other than tensors"
        raise OnnxdfqError(f"the torch engine has no values of type {name}")
    return dtype


def outside_dtype(element_type: int) -> torch.dtype:
    """The torch type in which a module takes and returns an ONNX element type: what torch has that is nearest."""
    return _OUTSIDE.get(element_type) or torch_dtype(element_type)


def to_torch(tensor: onnx.TensorProto) -> Tensor:
    """A torch copy of an ONNX tensor, of the same shape, on the CPU."""
    return from_numpy(numpy_helper.to_array(tensor), tensor.data_type)


def from_numpy(array: np.ndarray, element_type: int) -> Tensor:
    """A torch copy of an array, carried as the engine carries this ONNX element type."""
    dtype = torch_dtype(element_type)
    if element_type in _CARRIED:
        array = array.astype(np.dtype(str(dtype).removeprefix("torch.")))
    elif array.dtype.isbuiltin != 1:  # bfloat16 and float8, for which numpy has no type of its own
        return torch.from_numpy(np.array(array).reshape(-1).view(np.uint8)).view(dtype).reshape(array.shape)
    return torch.from_numpy(np.array(array)).to(dtype)


def to_numpy(tensor: Tensor, element_type: int) -> np.ndarray:
    """An array of the numpy type (of ml_dtypes where numpy has none) that onnx uses for the element type."""
    wanted = onnx.helper.tensor_dtype_to_np_dtype(element_type)
    plain = tensor.detach().cpu().contiguous()
    if wanted.isbuiltin == 1 or element_type in _CARRIED:
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy().astype(wanted)
    raw = plain.to(torch_dtype(element_type)).reshape(-1).view(torch.uint8)
    return raw.numpy().view(wanted).reshape(tuple(plain.shape))


def to_onnx(tensor: Tensor, name: str, element_type: int) -> onnx.TensorProto:
    """An ONNX copy of a torch tensor."""
    return numpy_helper.from_array(to_numpy(tensor, element_type), name)


def wrapped(x: Tensor, element_type: int) -> Tensor:
    """Integers reduced to the bits of a type that is carried in a wider one, as its overflow would."""
    bits, signed = INTEGERS.get(element_type, (64, True))
    if element_type not in _CARRIED or bits == 64:
        return x
    low = x & (2**bits - 1)
    return torch.where(low >= 2 ** (bits - 1), low - 2**bits, low) if signed else low


def ints(value: Ints) -> list[int]:
    """A list of Python integers from a constant, or from a tensor that the graph computed."""
    if isinstance(value, Tensor):
        return [int(item) for item in value.reshape(-1).tolist()]
    return [int(item) for item in value] if isinstance(value, list) else [int(value)]


def number(value: Number | None) -> Tensor | float | None:
    """One Python number from a constant, whether its shape is [] or [1]; tensors and None pass."""
    return value[0] if isinstance(value, list) else value


def floats(value: Tensor | list[float]) -> list[float]:
    """A list of Python floats from a constant, or from a tensor that the graph computed."""
    return [float(item) for item in (value.reshape(-1).tolist() if isinstance(value, Tensor) else value)]
