"""The damage of one layer's rounding: what a run with only that layer rounded, and its mean put back, would show."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper, parser

from onnxdfq.calibrate.sensitivity import sensitivities
from onnxdfq.engine.ort import Session
from onnxdfq.verify.agreement import agreement
from passes.base import run_passes
from passes.canonicalize import CANONICAL
from passes.correct_bias import shift_bias
from passes.placement import WEIGHTED, weight_axis

WIDTHS = (2, 3, 4, 6, 8)
RNG = np.random.default_rng(3)

CASES = {
    "residual classifier": (
        """g (float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, u, b) r = Relu (a) c = Conv <group = 16, pads = [1, 1, 1, 1]> (r, v)
            s = Add (c, r) t = Relu (s) d = ConvTranspose (t, w) p = GlobalAveragePool (d) f = Flatten (p)
            y = Gemm <transB = 1> (f, m, n)
        }""",
        {"u": (16, 3, 3, 3), "b": (16,), "v": (16, 1, 3, 3), "w": (16, 8, 2, 2), "m": (5, 8), "n": (5,)},
        (6, 3, 8, 8),
    ),
    "tokens, two outputs, one from the middle": (
        """g (float[N,5,16] x) => (float[N,5,16] y, float[N,5,16] r) {
            a = MatMul (x, u) p = Add (a, b) r = Relu (p) c = MatMul (r, v) y = Add (d, c)
        }""",
        {"u": (16, 16), "b": (16,), "v": (16, 16), "d": (16,)},
        (4, 5, 16),
    ),
}


def model_of(text, shapes, opset=17):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    for name, shape in shapes.items():
        values = shape if isinstance(shape, np.ndarray) else RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        held = values if isinstance(shape, np.ndarray) else values.astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(held, name))
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    run_passes(graph, CANONICAL)
    return gs.export_onnx(graph)


def layers_of(model):
    return {node.name: node for node in gs.import_onnx(model).nodes if node.op in WEIGHTED}


def nearest(layers):
    """Rounding to nearest, one scale for each output channel."""

    def rounded(name, bits):
        values, axis = layers[name].inputs[1].values, weight_axis(layers[name])
        others = tuple(k for k in range(values.ndim) if k != axis)
        scale = np.abs(values).max(others, keepdims=True) / (2 ** (bits - 1) - 1)
        return (np.rint(values / scale) * scale).astype(np.float32)

    return rounded


def damage(model, name, weights, batches):
    """One layer's weights replaced and the mean of its output put back; compared as the product compares models."""
    graph = gs.import_onnx(model)
    layer = next(node for node in graph.nodes if node.name == name)
    layer.inputs[1].values = weights
    means = []
    for each in (gs.import_onnx(model), graph):
        tapped = gs.import_onnx(gs.export_onnx(each))
        tapped.outputs = [tapped.tensors()[layer.outputs[0].name].to_variable(np.float32)]
        session = Session(gs.export_onnx(tapped.cleanup()))
        found = np.concatenate([next(iter(session.run(batch).values())) for batch in batches])
        others = tuple(k for k in range(found.ndim) if k != (1 if "Conv" in layer.op else found.ndim - 1))
        means.append(found.mean(others, dtype=np.float64))
    shift_bias(layer, means[0] - means[1])
    compared = agreement(Session(model), Session(gs.export_onnx(graph)), {"": batches})
    if compared.kl is not None:
        return compared.kl
    return float(np.mean([10 ** (-value / 10) if value < 200 else 0.0 for value in compared.sqnr.values()]))


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_a_run_with_only_that_layer_rounded_shows(case):
    text, shapes, size = CASES[case]
    model = model_of(text, shapes)
    layers = layers_of(model)
    rounded = nearest(layers)
    batches = [{"x": RNG.standard_normal(size).astype(np.float32)} for _ in range(2)]
    steps = []
    found = sensitivities(model, layers, batches, WIDTHS, rounded, lambda *step: steps.append(step))
    assert list(found) == [node.name for node in model.graph.node if node.name in layers]
    assert steps == [(k, len(layers)) for k in range(1, len(layers) + 1)]
    for name, by_bits in found.items():
        assert list(by_bits) == list(WIDTHS)
        for bits in (2, 4):  # these two are measured
            assert by_bits[bits] == pytest.approx(damage(model, name, rounded(name, bits), batches), rel=0.02)
        power = {bits: float(((rounded(name, bits) - layers[name].inputs[1].values) ** 2).sum()) for bits in WIDTHS}
        for bits in (3, 6, 8):  # the others are scaled
            assert by_bits[bits] == pytest.approx(by_bits[4] * power[bits] / power[4], rel=1e-3)
        assert by_bits[2] > by_bits[8] > 0


def small():
    model = model_of(
        "g (float[N,16] x) => (float[N,16] y) { a = Gemm (x, u) r = Relu (a) y = Gemm (r, v) }",
        {"u": (16, 16), "v": (16, 16)},
    )
    return model, layers_of(model), [{"x": RNG.standard_normal((8, 16)).astype(np.float32)}]


def test_only_the_layers_and_widths_that_are_asked_for():
    model, layers, batches = small()
    found = sensitivities(model, ["Gemm_y"], batches, (4, 8), nearest(layers))
    assert {name: list(each) for name, each in found.items()} == {"Gemm_y": [4, 8]}
    assert sensitivities(model, [], batches, WIDTHS, nearest(layers)) == {}


def test_weights_that_rounding_leaves_as_they_are_do_no_damage():
    model, layers, batches = small()
    found = sensitivities(model, layers, batches, WIDTHS, lambda name, bits: layers[name].inputs[1].values)
    assert set(found["Gemm_a"].values()) == {0.0}
    rounded = nearest(layers)
    finer = sensitivities(  # on a grid of 4 bits, what 3 do is scaled from 2
        model, layers, batches, WIDTHS,
        lambda name, bits: rounded(name, bits) if bits < 4 else layers[name].inputs[1].values,
    )  # fmt: skip
    assert finer["Gemm_a"][2] > finer["Gemm_a"][3] > finer["Gemm_a"][4] == finer["Gemm_a"][8] == 0


def test_damage_is_a_number_even_where_the_answer_is_none():
    model = model_of(
        "g (float[N,16] x) => (float[N,16,1] y) { a = Gemm (x, u) b = Log (a) y = Unsqueeze (b, two) }",
        {"u": np.eye(16, dtype=np.float32), "two": np.array([2])},
    )
    batches = [{"x": RNG.uniform(1, 2, (8, 16)).astype(np.float32)}]
    found = sensitivities(model, ["Gemm_a"], batches, (4, 8), lambda name, bits: -np.eye(16, dtype=np.float32) * bits)
    assert all(np.isfinite(value) and value > 1e5 for value in found["Gemm_a"].values())
