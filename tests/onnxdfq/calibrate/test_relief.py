"""What a layer back in float would give: nothing for a layer that lost nothing, most for the one that lost most."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdfq.calibrate.relief import distances_without
from onnxdfq.engine.ort import Session

FLOAT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 3] y) {
    [first] a = Gemm(x, w1, b1)
    r = Relu(a)
    [second] y = Gemm(r, w2)
}"""
QUANTIZED = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 3] y) {
    xq = QuantizeLinear(x, sx, zero)
    xd = DequantizeLinear(xq, sx, zero)
    v1 = DequantizeLinear(c1, s1, zw)
    [first] a = Gemm(xd, v1, b1)
    r = Relu(a)
    rq = QuantizeLinear(r, sr, zero)
    rd = DequantizeLinear(rq, sr, zero)
    v2 = DequantizeLinear(c2, s2, zw)
    [second] y = Gemm(rd, v2)
}"""
RNG = np.random.default_rng(0)
W = {"w1": RNG.normal(0, 1, (4, 5)), "b1": RNG.normal(0, 1, 5), "w2": RNG.normal(0, 1, (5, 3))}
X = {"x": RNG.uniform(0, 1, (40, 4)).astype(np.float32)}


def model(text: str, **held: np.ndarray) -> onnx.ModelProto:
    made = parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in held.items())
    onnx.checker.check_model(made)
    return made


def quantized(steps: dict[str, float]) -> onnx.ModelProto:
    """Weights of both layers, and what they read, with these steps."""
    held = {name: np.float32(step) for name, step in steps.items()}
    codes = {f"c{k}": np.rint(W[f"w{k}"] / steps[f"s{k}"]).clip(-127, 127).astype(np.int8) for k in (1, 2)}
    numbers = {name: np.asarray(value) for name, value in {**held, "zero": np.uint8(0), "zw": np.int8(0)}.items()}
    return model(QUANTIZED, **numbers, **codes, b1=W["b1"].astype(np.float32))


FINE = {"sx": 1 / 255, "s1": 3 / 127, "sr": 5 / 255, "s2": 3 / 127}


@pytest.mark.parametrize(("spoilt", "layer"), [("s1", "first"), ("sx", "first"), ("s2", "second"), ("sr", "second")])
def test_the_layer_whose_weights_or_inputs_are_coarse_gives_most(spoilt: str, layer: str) -> None:
    floats = model(FLOAT, **{name: value.astype(np.float32) for name, value in W.items()})
    coarse = quantized({**FINE, spoilt: 0.7})
    before = coarse.SerializeToString()
    steps: list[tuple[int, int]] = []
    found = distances_without(
        Session(floats), coarse, floats, ("first", "second"), [X], True, lambda done, total: steps.append((done, total))
    )
    other = "second" if layer == "first" else "first"
    assert found[layer] < 0.2 * found[other]
    assert steps == [(1, 2), (2, 2)]
    assert coarse.SerializeToString() == before, "the model itself stays"


def test_inputs_may_stay_in_codes() -> None:
    floats = model(FLOAT, **{name: value.astype(np.float32) for name, value in W.items()})
    coarse = quantized({**FINE, "sr": 0.7})
    found = [distances_without(Session(floats), coarse, floats, ["second"], [X], inputs) for inputs in (True, False)]
    assert found[0]["second"] < 0.2 * found[1]["second"]
