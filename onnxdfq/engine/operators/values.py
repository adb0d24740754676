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

# Integers narrower than a byte are carried in one.
NARROW: dict[int, torch.dtype] = {
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
}
# Floats that numpy has no type for, which cross over as bytes.
_BYTES_ONLY: dict[int, torch.dtype] = {
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
}
_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    **NARROW,
    **_BYTES_ONLY,
}


def torch_dtype(element_type: int) -> torch.dtype:
    """The torch type that carries an ONNX element type. Raises OnnxdfqError for text and exotic floats."""
    if element_type not in _DTYPES:
        name = TensorProto.DataType.Name(element_type)
        raise OnnxdfqError(f"the torch engine has no tensors of type {name}")
    return _DTYPES[element_type]


def to_torch(tensor: onnx.TensorProto) -> Tensor:
    """A torch copy of an ONNX tensor, of the same shape, on the CPU."""
    dtype = torch_dtype(tensor.data_type)
    array = numpy_helper.to_array(tensor)
    if tensor.data_type in _BYTES_ONLY:
        raw = np.array(array.reshape(-1)).view(np.uint8)
        return torch.from_numpy(raw).view(dtype).reshape(array.shape)
    if tensor.data_type in NARROW:
        array = array.astype(np.int8 if dtype == torch.int8 else np.uint8)
    return torch.from_numpy(np.array(array))


def to_onnx(tensor: Tensor, name: str, element_type: int) -> onnx.TensorProto:
    """An ONNX copy of a torch tensor, converted to a type of at least one byte per element."""
    plain = tensor.detach().cpu().to(torch_dtype(element_type)).contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    return onnx.helper.make_tensor(name, element_type, list(plain.shape), raw, raw=True)


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
