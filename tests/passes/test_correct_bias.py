"""A shift of the bias is a shift of the layer's output, wherever the bias lives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.correct_bias import bias_of, shift_bias
from tests.passes.conftest import model_of, run

RNG = np.random.default_rng(6)
SHIFT = np.array([1.0, -2.0, 0.5, 0.0])


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def graph_of(text, **initializers):
    return gs.import_onnx(model_of(text, **initializers))


def computed(graph, x):
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model)
    return run(model, x)[0]


LAYERS = {
    "conv": ("2,3,5,5", "y = Conv (x, w, b)", {"w": (4, 3, 3, 3), "b": (4,)}, 1),
    "conv without bias": ("2,3,5,5", "y = Conv (x, w)", {"w": (4, 3, 3, 3)}, 1),
    "grouped conv": ("2,4,5,5", "y = Conv <group = 4> (x, w)", {"w": (4, 1, 3, 3)}, 1),
    "transposed": ("2,3,5,5", "y = ConvTranspose (x, w, b)", {"w": (3, 4, 3, 3), "b": (4,)}, 1),
    "transposed without bias": ("2,2,5,5", "y = ConvTranspose <group = 2> (x, w)", {"w": (2, 2, 3, 3)}, 1),
    "gemm": ("2,3", "y = Gemm (x, w, b)", {"w": (3, 4), "b": (4,)}, 1),
    "gemm beta": ("2,3", "y = Gemm <beta = 0.25, alpha = 2.0> (x, w, b)", {"w": (3, 4), "b": (4,)}, 1),
    "gemm beta without bias": ("2,3", "y = Gemm <transB = 1> (x, w)", {"w": (4, 3)}, 1),
    "gemm row": ("2,3", "y = Gemm <beta = 2.0> (x, w, b)", {"w": (3, 4), "b": (1, 4)}, 1),
    "gemm one number": ("2,3", "y = Gemm (x, w, b)", {"w": (3, 4), "b": (1,)}, 1),
    "gemm scalar": ("2,3", "y = Gemm (x, w, b)", {"w": (3, 4), "b": ()}, 1),
    "matmul add": ("2,7,3", "p = MatMul (x, w) y = Add (p, b)", {"w": (3, 4), "b": (4,)}, -1),
    "matmul add, bias first": ("2,7,3", "p = MatMul (x, w) y = Add (b, p)", {"w": (3, 4), "b": (1, 1, 4)}, -1),
    "matmul add of one number": ("2,7,3", "p = MatMul (x, w) y = Add (p, b)", {"w": (3, 4), "b": (1,)}, -1),
    "matmul add of a table": ("2,7,3", "p = MatMul (x, w) y = Add (p, b)", {"w": (3, 4), "b": (7, 4)}, -1),
    "matmul add of a column": ("2,7,3", "p = MatMul (x, w) y = Add (p, b)", {"w": (3, 4), "b": (7, 1)}, -1),
    "gemm table": ("2,3", "y = Gemm <beta = 2.0> (x, w, b)", {"w": (3, 4), "b": (2, 4)}, 1),
    "gemm column": ("2,3", "y = Gemm (x, w, b)", {"w": (3, 4), "b": (2, 1)}, 1),
    "matmul add of a scalar": ("2,7,3", "p = MatMul (x, w) y = Add (p, b)", {"w": (3, 4), "b": ()}, -1),
}  # fmt: skip


def random(parameters):
    return {name: np.asarray(weights(*size), np.float32) for name, size in parameters.items()}


@pytest.mark.parametrize("case", LAYERS)
def test_the_output_moves_by_the_shift(case):
    shape, text, parameters, axis = LAYERS[case]
    rank = {"MatMul": 3, "Gemm": 2}.get(text.split(" (")[0].split()[2], 4)
    text = f"g (float[{shape}] x) => (float[{','.join('ABCD'[:rank])}] y) {{ {text} }}"
    graph = graph_of(text, **random(parameters))
    x = weights(*map(int, shape.split(",")))
    before = computed(graph, x)
    layer = graph.nodes[0]
    assert bias_of(layer) is not None
    shift_bias(layer, SHIFT)
    moved = np.moveaxis(computed(graph, x) - before, axis, -1)
    np.testing.assert_allclose(moved, np.broadcast_to(SHIFT, moved.shape), atol=1e-5)
    shift_bias(layer, -SHIFT)  # and back again, also where there was no bias at first
    np.testing.assert_allclose(computed(graph, x), before, atol=1e-5)


def test_a_shift_stays_float32_and_keeps_the_shape_of_the_bias():
    graph = graph_of("g (float[2,3] x) => (float[2,4] y) { p = MatMul (x, w) y = Add (p, b) }", w=weights(3, 4),
                     b=weights(1, 4))  # fmt: skip
    shift_bias(graph.nodes[0], SHIFT)
    held = graph.nodes[1].inputs[1].values
    assert (held.dtype, held.shape) == (np.float32, (1, 4))


NOWHERE = {
    "computed bias": "k = Abs (b) y = Conv (x, c, k)",
    "matmul alone": "y = MatMul (x, w)",
    "matmul without add": "p = MatMul (x, w) y = Relu (p)",
    "matmul read twice": "p = MatMul (x, w) q = Add (p, b) y = Mul (p, q)",
    "matmul plus an activation": "p = MatMul (x, w) y = Add (p, x)",
    "another operator": "y = Abs (x)",
}


@pytest.mark.parametrize("case", NOWHERE)
def test_a_layer_without_a_place_for_a_bias_is_refused_by_name(case):
    graph = graph_of(
        f"g (float[2,4,4,4] x) => (float[A,B,C,D] y) {{ {NOWHERE[case]} }}",
        w=weights(4, 4), b=weights(4), c=weights(4, 4, 1, 1),
    )  # fmt: skip
    layer = next(node for node in graph.nodes if node.op in ("Conv", "MatMul", "Abs") and node.outputs[0].name != "k")
    layer.name = "the-layer"
    assert bias_of(layer) is None
    with pytest.raises(ValueError, match="the-layer has no place for a bias"):
        shift_bias(layer, SHIFT)
