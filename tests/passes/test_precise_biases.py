"""Layers that run in float are kept from having biases and weights rounded, and no others."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper, parser

from onnxdfq.engine.ort import Session
from passes.precise_biases import PreciseBiases

CODES = 7  # of an activation of 3 bits
STEP, WEIGHT_STEP, OUT_STEP = 0.5, 0.3, 0.5


def model(after: str, before: str = "a = QuantizeLinear(x, step, zero)") -> onnx.ModelProto:
    """Conv on codes; what follows it writes y."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2, 4, 4] x) => (float[N, 3, 4, 4] y) {{
        {before}
        b = DequantizeLinear(a, step, zero)
        v = DequantizeLinear(w, weight_step, weight_zero)
        [conv] c = Conv<pads = [1, 1, 1, 1]>(b, v, bias)
        {after}
    }}"""
    made = parser.parse_model(text)
    rng = np.random.default_rng(0)
    held = {
        "step": np.float32(STEP), "zero": np.uint8(0), "weight_step": np.float32(WEIGHT_STEP),
        "weight_zero": np.int8(0), "w": rng.integers(-3, 4, (3, 2, 3, 3)).astype(np.int8),
        "bias": np.array([0.07, -0.21, 0.36], np.float32), "out_step": np.float32(OUT_STEP),
        "low": np.float32(0), "few": np.float32(CODES * OUT_STEP), "all": np.float32(255 * OUT_STEP),
    }  # fmt: skip
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in held.items())
    onnx.checker.check_model(made)
    return made


FLOAT = {
    "a Clip of few codes": "d = Clip(c, low, few) q = QuantizeLinear(d, out_step, zero) "
    "y = DequantizeLinear(q, out_step, zero)",
}
OTHERS = {
    "a function in float": "y = Tanh(c)",
    "a quantizer": "q = QuantizeLinear(c, out_step, zero) y = DequantizeLinear(q, out_step, zero)",
    "a Relu": "d = Relu(c) q = QuantizeLinear(d, out_step, zero) y = DequantizeLinear(q, out_step, zero)",
    "a Clip of all codes": "d = Clip(c, low, all) q = QuantizeLinear(d, out_step, zero) "
    "y = DequantizeLinear(q, out_step, zero)",
}


def applied(made: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    graph = gs.import_onnx(made)
    result = PreciseBiases()(graph)
    return gs.export_onnx(graph), result.changed


@pytest.mark.parametrize("after", FLOAT.values(), ids=FLOAT)
@pytest.mark.parametrize("rank", [0, 1])
def test_the_runtime_computes_with_the_bias_as_it_is(after: str, rank: int) -> None:
    before = model(after)
    for tensor in before.graph.initializer:
        if tensor.name == "out_step":
            tensor.dims.extend([1] * rank)
    made, changed = applied(before)
    assert changed == 1
    onnx.checker.check_model(made)
    x = np.random.default_rng(1).uniform(0, 3, (4, 2, 4, 4)).astype(np.float32)
    exact = Session(before, as_written=True).run({"x": x})["y"]
    np.testing.assert_allclose(Session(made).run({"x": x})["y"], exact, atol=1e-5)
    assert np.abs(Session(before).run({"x": x})["y"] - exact).max() > 0.01, "else there is nothing to mend"


@pytest.mark.parametrize("after", OTHERS.values(), ids=OTHERS)
def test_other_biases_are_left_alone(after: str) -> None:
    made, changed = applied(model(after))
    assert changed == 0
    assert "bias" in {tensor.name for tensor in made.graph.initializer}


@pytest.mark.parametrize("after", OTHERS.values(), ids=OTHERS)
def test_a_layer_that_reads_few_codes_keeps_its_bias_too(after: str) -> None:
    before = model(after, "k = Clip(x, low, few) a = QuantizeLinear(k, step, zero)")
    made, changed = applied(before)
    assert changed == 1
    x = np.random.default_rng(1).uniform(0, 3, (4, 2, 4, 4)).astype(np.float32)
    exact = Session(before, as_written=True).run({"x": x})["y"]
    np.testing.assert_allclose(Session(made).run({"x": x})["y"], exact, atol=1e-5)


def test_biases_of_float_layers_are_left_alone() -> None:
    text = "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 2, 4, 4] x) => (float[N, 3, 2, 2] y) " \
        "{ y = Conv(x, w, bias) }"  # fmt: skip
    made = parser.parse_model(text)
    for name, shape in {"w": (3, 2, 3, 3), "bias": (3,)}.items():
        made.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    assert applied(made)[1] == 0


# Weights whose channels differ a hundredfold: with one scale of 8 bits for all the small ones are lost
LAYERS = {
    "Conv": ("c = Conv<pads = [1, 1, 1, 1]>(b, w{bias})", (4, 4, 3, 3)),
    "depthwise": ("c = Conv<pads = [1, 1, 1, 1], group = 4>(b, w{bias})", (4, 1, 3, 3)),
    "ConvTranspose": ("c = ConvTranspose<pads = [1, 1, 1, 1]>(b, w{bias})", (4, 4, 3, 3)),
    "grouped ConvTranspose": ("c = ConvTranspose<pads = [1, 1, 1, 1], group = 2>(b, w{bias})", (4, 2, 3, 3)),
    "Gemm": ("c = Gemm(b, w{bias})", (4, 4)),
    "Gemm transB": ("c = Gemm<transB = 1>(b, w{bias})", (4, 4)),
}


@pytest.mark.parametrize("bias", ["", ", bias"], ids=["no bias", "bias"])
@pytest.mark.parametrize("layer", LAYERS)
def test_float_weights_stay_float(layer: str, bias: str) -> None:
    body, shape = LAYERS[layer]
    axes = "N, 4" if "Gemm" in layer else "N, 4, 4, 4"
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{axes}] x) => (float[{axes}] y) {{
        a = QuantizeLinear(x, step, zero)
        b = DequantizeLinear(a, step, zero)
        {body.format(bias=bias)}
        r = Relu(c)
        q = QuantizeLinear(r, out_step, zero)
        y = DequantizeLinear(q, out_step, zero)
    }}"""
    before = parser.parse_model(text)
    rng = np.random.default_rng(0)
    axis = 1 if layer in ("ConvTranspose", "grouped ConvTranspose", "Gemm") else 0  # of output channels
    spread = np.moveaxis(np.logspace(-2, 0, shape[axis]).reshape(-1, *[1] * (len(shape) - 1)), 0, axis)
    held = {
        "step": np.float32(0.01), "zero": np.uint8(0), "out_step": np.float32(2e-4),
        "w": (rng.uniform(0.05, 0.2, shape) * spread).astype(np.float32), "bias": np.full(4, 1e-3, np.float32),
    }  # fmt: skip
    before.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in held.items() if name in text
    )
    for number, node in enumerate(before.graph.node):
        node.name = f"n{number}"
    made, changed = applied(before)
    assert changed == 1
    onnx.checker.check_model(made, full_check=True)
    x = rng.uniform(0, 2.5, (8, 4) if "Gemm" in layer else (4, 4, 4, 4)).astype(np.float32)
    exact = Session(before, as_written=True).run({"x": x})["y"]
    off = [np.abs(Session(each).run({"x": x})["y"] - exact).mean() for each in (made, before)]
    assert off[0] < 1e-5
    assert off[1] > 3e-5, "else there is nothing to mend"


WAYS = {
    "a pool before": ("p = MaxPool<kernel_shape = [1, 1]>(b) c = Conv(p, w) r = Relu(c)", 1),
    "a pool behind": ("c = Conv(b, w) d = Relu(c) r = MaxPool<kernel_shape = [1, 1]>(d)", 1),
    "no quantizer behind": ("c = Conv(b, w) r = Tanh(c)", 0),
    "another reader": ("c = Conv(b, w) z = Relu(c) r = Add(c, z)", 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_done_where_the_runtime_would_round_and_only_there(way: str) -> None:
    body, times = WAYS[way]
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4, 4, 4] x) => (float[N, 4, 4, 4] y) {{
        a = QuantizeLinear(x, step, zero) b = DequantizeLinear(a, step, zero) {body}
        q = QuantizeLinear(r, step, zero) y = DequantizeLinear(q, step, zero)
    }}"""
    made = parser.parse_model(text)
    w = np.random.default_rng(0).uniform(0.05, 0.2, (4, 4, 1, 1)) * np.logspace(-2, 0, 4).reshape(4, 1, 1, 1)
    held = {"step": np.float32(0.01), "zero": np.uint8(0), "w": w.astype(np.float32)}
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in held.items())
    graph = gs.import_onnx(made)
    assert PreciseBiases(frozenset({"MaxPool"}))(graph).changed == times
    x = np.random.default_rng(1).uniform(0, 2.5, (2, 4, 4, 4)).astype(np.float32)
    exact, computed = (Session(each, as_written=late).run({"x": x})["y"]
                       for each, late in ((made, True), (gs.export_onnx(graph), False)))  # fmt: skip
    np.testing.assert_allclose(computed, exact, atol=1e-5)
