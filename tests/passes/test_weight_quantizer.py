"""Where weights are once they are behind a quantizer, and what cannot be reached there."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.weight_quantizer import WeightQuantizer, weight_quantizer
from tests.passes.qdq_models import model

W, SCALE = np.ones((16, 16, 1, 1), np.float32), np.full(16, 0.5, np.float32)
PLAIN = "wq = Q <axis = 0> (wf, sw, zw) wd = DQ <axis = 0> (wq, sw, zw)"


def layer(body, op, **constants):
    graph = gs.import_onnx(model(body, wf=W, sw=SCALE, **constants))
    return graph, next(node for node in graph.nodes if node.op == op)


def test_new_weights_and_scales_reach_both_q_and_dq():
    graph, conv = layer(f"{PLAIN} y = Conv (x, wd)", "Conv")
    found = weight_quantizer(conv)
    assert isinstance(found, WeightQuantizer)
    assert (found.weights.name, found.scale.name, found.axis) == ("wf", "sw", 0)
    assert found.column(np.arange(16)).shape == (16, 1, 1, 1)
    found.set(W * 3, SCALE.astype(np.float64) * 2)
    held = {tensor.name: tensor.values for node in graph.nodes for tensor in node.inputs if tensor.name in ("wf", "sw")}
    np.testing.assert_array_equal(held["wf"], W * 3)
    np.testing.assert_array_equal(held["sw"], SCALE * 2)
    assert {values.dtype for values in held.values()} == {np.dtype(np.float32)}
    quantizers = [node for node in graph.nodes if node.op in ("QuantizeLinear", "DequantizeLinear")]
    assert all(node.inputs[1] is found.scale for node in quantizers)


def test_the_axis_of_a_matrix_is_the_one_that_the_quantizer_has():
    _, gemm = layer("f = Flatten (x) wq = Q <axis = 1> (m, sw, zw) wd = DQ <axis = 1> (wq, sw, zw) y = MatMul (f, wd)",
                    "MatMul", m=np.ones((576, 16), np.float32))  # fmt: skip
    found = weight_quantizer(gemm)
    assert isinstance(found, WeightQuantizer)
    assert found.column(np.arange(16)).shape == (1, 16)


REASONS = {
    "y = Conv (x, wf)": "its weights are not quantized",
    "a = Abs (wf) y = Conv (x, a)": "its weights are not quantized",
    "wd = DQ <axis = 0> (w, sw, zw) y = Conv (x, wd)": "its weights are not quantized",  # frozen already
    "a = Abs (wf) wq = Q <axis = 0> (a, sw, zw) wd = DQ <axis = 0> (wq, sw, zw) y = Conv (x, wd)":
        "its weights are not constant",
    "wq = Q (wf, sm, zm) wd = DQ (wq, sm, zm) y = Conv (x, wd)": "its channels share a scale",
    "wq = Q <axis = 1> (wt, sw, zw) wd = DQ <axis = 1> (wq, sw, zw) y = ConvTranspose <group = 2> (x, wd)":
        "its channels share a scale",
}  # fmt: skip


@pytest.mark.parametrize("body", REASONS)
def test_what_cannot_be_reached_says_why(body):
    op = "ConvTranspose" if "ConvTranspose" in body else "Conv"
    _, node = layer(body, op, wt=np.ones((16, 16, 1, 1), np.float32))
    assert weight_quantizer(node) == REASONS[body]
