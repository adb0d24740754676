"""What is said of the weights in a file is what lies in it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.pack_weights import packed
from passes.stored_weights import Stored, stored_weights
from tests.passes.conftest import model_of

CODES = np.random.default_rng(2).integers(-2, 2, (6, 5)).astype(np.int8)
SCALE, ZERO = np.float32(0.1), np.int8(0)


def graph_of(initializer, *, cast=False):
    """x -> MatMul <- DequantizeLinear <- (Cast <-) w"""
    nodes = [helper.make_node("Cast", ["w"], ["c"], to=TensorProto.INT8)] if cast else []
    nodes.append(helper.make_node("DequantizeLinear", ["c" if cast else "w", "s"], ["d"]))
    nodes.append(helper.make_node("MatMul", ["x", "d"], ["y"], name="layer"))
    model = helper.make_model(helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [initializer, numpy_helper.from_array(SCALE, "s")],
    ))  # fmt: skip
    return gs.import_onnx(model)


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize(("bits", "size"), [(8, 30), (4, 15), (2, 8)])
def test_container_and_bytes(bits, size, cast):
    held = numpy_helper.from_array(CODES, "w") if bits == 8 else packed("w", CODES, bits)
    assert stored_weights(graph_of(held, cast=cast)) == [Stored("layer", f"INT{bits}", 30, size)]
    assert len(held.raw_data) == size


def test_other_tensors_are_not_listed():
    graph = graph_of(numpy_helper.from_array(CODES.astype(np.int32), "w"))
    assert stored_weights(graph) == []  # a bias
    plain = model_of("g (float[N,6] x) => (float[N,5] y) { y = MatMul (x, w) }", w=CODES.astype(np.float32))
    assert stored_weights(gs.import_onnx(plain)) == []
    activation = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Relu (d)"
    pair = model_of(f"g (float[N,6] x) => (float[N,6] y) {{ {activation} }}", s=SCALE, z=ZERO)
    assert stored_weights(gs.import_onnx(pair)) == []
