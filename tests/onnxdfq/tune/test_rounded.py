"""Where training begins: in the cells of the codes that rounding chose, with the biases that it left."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxdfq.emit import with_qdq
from onnxdfq.tune.fake_quantize import INSIDE
from onnxdfq.tune.rounded import with_rounded
from passes.correct_bias import shift_bias
from passes.round_weights import RoundWeights
from tests.onnxdfq.tune.planned import Planned, planned
from tests.passes.conftest import run

MIXED = """g (float[8,4,8,8] x) => (float[8,8,3] y) {
    a = Conv(x, w1)
    r = Relu(a)
    b = Conv(r, w2, b2)
    f = Reshape(b, shape)
    m = MatMul(f, w3)
    n = Add(m, b3)
    c = Relu(n)
    y = MatMul(c, w4)
}"""
HELD = {"w1": (8, 4, 1, 1), "w2": (8, 8, 1, 1), "b2": (8,), "w3": (64, 16), "b3": (16,), "w4": (16, 3),
        "shape": np.int64([8, 8, 64])}  # fmt: skip
LAYERS = {"Conv_a": "w1", "Conv_b": "w2", "MatMul_m": "w3", "MatMul_y": "w4"}


@pytest.fixture
def made() -> Planned:
    return planned(MIXED, bits=3, all_layers=True, **HELD)


def rounded(made: Planned) -> onnx.ModelProto:
    """Weights rounded by SQuant, which moves some to the other side; two biases shifted, one of them made."""
    graph = gs.import_onnx(with_qdq(made.model, made.plan))
    RoundWeights("squant", dict.fromkeys(LAYERS, 3))(graph)
    nodes = {node.name: node for node in graph.nodes}
    shift_bias(nodes["Conv_a"], np.arange(8, dtype=np.float32))
    shift_bias(nodes["MatMul_m"], np.full(16, 0.5, np.float32))
    return gs.export_onnx(graph)


def values(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}


def scales(made: Planned, name: str) -> np.ndarray:
    params = made.plan.tensors[name]
    shape = [1] * values(made.model)[name].ndim
    if params.axis is not None:
        shape[params.axis] = -1
    return np.float32(params.scale).reshape(shape)


def test_the_graph_computes_what_rounding_left(made: Planned) -> None:
    quantized = rounded(made)
    start, _ = with_rounded(made.model, quantized, list(LAYERS))
    expected, ours = run(quantized, made.x)[0], run(with_qdq(start, made.plan), made.x)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(run(with_qdq(made.model, made.plan), made.x)[0] - expected).max() > 0.01


@pytest.mark.parametrize("name", LAYERS.values())
def test_weights_stand_in_their_cells_and_else_where_they_stood(made: Planned, name: str) -> None:
    quantized = rounded(made)
    start, _ = with_rounded(made.model, quantized, list(LAYERS))
    step = scales(made, name)
    before, codes, after = (values(each)[name] / step for each in (made.model, quantized, start))
    assert np.abs(after - codes).max() <= INSIDE + 1e-4
    inside = np.abs(before - codes) < INSIDE
    assert 0 < inside.mean() < 1
    np.testing.assert_allclose(after[inside], before[inside], rtol=1e-5)
    np.testing.assert_allclose(np.abs(after - codes)[~inside], INSIDE, atol=1e-4)


def test_biases_are_taken_over(made: Planned) -> None:
    start, biases = with_rounded(made.model, rounded(made), list(LAYERS))
    assert biases == {"a_bias", "b2", "b3"}
    held = values(start)
    np.testing.assert_array_equal(held["a_bias"], np.arange(8))
    np.testing.assert_array_equal(held["b2"], values(made.model)["b2"])
    np.testing.assert_allclose(held["b3"], values(made.model)["b3"] + 0.5, rtol=1e-6)


def test_other_layers_and_the_model_itself_stay(made: Planned) -> None:
    before = made.model.SerializeToString(deterministic=True)
    start, biases = with_rounded(made.model, rounded(made), ["MatMul_m"])
    assert biases == {"b3"}
    np.testing.assert_array_equal(values(start)["w1"], values(made.model)["w1"])
    assert made.model.SerializeToString(deterministic=True) == before
