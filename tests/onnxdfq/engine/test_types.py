"""Element types that torch lacks or computes little with."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxdfq.engine.backend import TorchBackend
from onnxdfq.engine.lower import lower
from onnxdfq.engine.operators.values import from_numpy, to_numpy, to_torch
from onnxdfq.errors import OnnxdfqError

TYPES = [
    *("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"),
    *("FLOAT8E8M0", "FLOAT4E2M1", "BOOL", "INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16"),
    *("INT32", "UINT32", "INT64", "UINT64"),
]


@pytest.mark.parametrize("name", TYPES)
def test_values_survive_the_way_there_and_back(name: str) -> None:
    kind = TensorProto.DataType.Value(name)
    array = np.array([[1, 0], [0, 1]] if name != "FLOAT8E8M0" else [[1, 2], [2, 1]]).astype(
        helper.tensor_dtype_to_np_dtype(kind)
    )
    back = to_numpy(from_numpy(array, kind), kind)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    torch.testing.assert_close(to_torch(numpy_helper.from_array(array)), from_numpy(array, kind))


def model(nodes: list[Any], take: int, give: int, opset: int = 23) -> Any:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", take, [None])],
        [helper.make_tensor_value_info("y", give, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)


# Steps and ties of four-bit and eight-bit floats, and what lies at and beyond their largest values.
_TIES = [0.0, -0.0, 1e-9, 2**-9, 0.3, 0.25, 0.75, 1.25, 2.5, 3.5, 5.0, 100.7, 239.0, 247.9, 248.0]
_LARGE = [448.0, 463.9, 464.0, 465.0, 57344.0, 61439.0, 61440.0, 1e9, np.inf, np.nan]
FLOATS = np.array(_TIES + _LARGE, np.float32)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"])
def test_casts_to_small_floats_without_saturation_are_those_of_ml_dtypes(name: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(getattr(ml_dtypes, name)))
    cast = helper.make_node("Cast", ["x"], ["y"], to=kind, saturate=0)
    (y,) = TorchBackend.prepare(model([cast], TensorProto.FLOAT, kind)).run([np.concatenate([FLOATS, -FLOATS])])
    expected = np.concatenate([FLOATS, -FLOATS]).astype(getattr(ml_dtypes, name))
    np.testing.assert_array_equal(y.astype(np.float32), expected.astype(np.float32))


def test_saturating_casts_stop_at_the_largest_value() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN)
    (y,) = TorchBackend.prepare(model([cast], TensorProto.FLOAT, TensorProto.FLOAT8E4M3FN)).run([FLOATS])
    assert y.astype(np.float32)[-8:-1].tolist() == [448.0] * 7
    assert np.isnan(y.astype(np.float32)[-1])


@pytest.mark.parametrize(
    ("take", "to", "given", "expected"),
    [
        ("INT16", "INT8", [200, -200], [-56, 56]),
        ("INT32", "INT4", [7, 8, -9, 23], [7, -8, 7, 7]),
        ("INT32", "UINT4", [15, 16, -1], [15, 0, 15]),
        ("INT32", "INT2", [1, 2, -3], [1, -2, 1]),
        ("INT32", "UINT16", [65535, 65536, -1], [65535, 0, 65535]),
        ("INT64", "UINT32", [2**32 - 1, 2**32, -1], [2**32 - 1, 0, 2**32 - 1]),
        ("FLOAT", "UINT8", [3.9, 255.0, 0.5], [3, 255, 0]),
        ("UINT16", "INT16", [65535, 1, 32768], [-1, 1, -32768]),
    ],
)
def test_casts_among_integers_lose_the_high_bits(take: str, to: str, given: list[float], expected: list[int]) -> None:
    source, target = TensorProto.DataType.Value(take), TensorProto.DataType.Value(to)
    made = TorchBackend.prepare(model([helper.make_node("Cast", ["x"], ["y"], to=target)], source, target))
    (y,) = made.run([np.array(given, helper.tensor_dtype_to_np_dtype(source))])
    assert y.astype(np.int64).tolist() == expected


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_arithmetic_of_wide_unsigned_integers(kind: str) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [helper.make_node("Mul", ["x", "x"], ["s"]), helper.make_node("Max", ["s", "x"], ["y"])]
    gm = lower(model(nodes, code, code))
    (y,) = gm(torch.from_numpy(np.array([3, 200], kind)))
    assert y.numpy().dtype == np.dtype(kind)
    assert y.tolist() == [9, 40000]


def test_text_is_refused() -> None:
    text = model([helper.make_node("Identity", ["x"], ["y"])], TensorProto.STRING, TensorProto.STRING)
    with pytest.raises(OnnxdfqError, match="no values of type STRING"):
        lower(text)
