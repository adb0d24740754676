"""What the linter says of OpenVINO is what OpenVINO does: in which type its convolutions run, and whether rightly."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from passes.lint import lint
from passes.targets import TARGETS
from tests.passes.qdq_models import CONV, FUSED, U8, W, model, pair

openvino = pytest.importorskip("openvino")

PACKED = FUSED.replace("wd =", "c = Cast <to = 3> (w4) wd =").replace("(w, sw", "(c, sw")
SECOND = "v = DQ <axis = 0> (w, sw, zw) y = Conv (e, v)"  # so that what lies between two convolutions shows
BODIES = {
    "quantized": (FUSED, {}),
    "int8 activations": (CONV, {}),
    "int32 bias": (f"{U8} {W} bd = DQ <axis = 0> (b32, s32, z32) a = Conv (xd, wd, bd) {pair('a', 'y')}", {}),
    "4 bits and Cast": (PACKED, {}),
    "4 bits": (FUSED.replace("(w, sw, zw)", "(w4, sw, z4)"), {}),
    "wrong axis": (FUSED.replace("axis = 0", "axis = 1"), {}),
    "weights with zero-points": (FUSED, {"zw": np.arange(16, dtype=np.int8)}),
}


def compiled(made, path):
    onnx.save(made, path)
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(path), "CPU", options)


def layers(network):
    """(operator, kernel) of everything that the compiled network runs."""
    nodes = [node.get_rt_info() for node in network.get_runtime_model().get_ordered_ops()]
    return [(node["layerType"].value, node["primitiveType"].value) for node in nodes]


def reference(made, x):
    """What the model computes as it is written."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(made.SerializeToString(), options).run(None, {"x": x})[0]


@pytest.mark.parametrize("name", BODIES)
def test_convolutions_stay_in_float_where_the_linter_says_so(name, tmp_path):
    body, constants = BODIES[name]
    made = model(body, **constants)
    said = {finding.rule for finding in lint(made, TARGETS["openvino"])}
    network = compiled(made, tmp_path / "model.onnx")
    kernels = [kernel.lower() for layer, kernel in layers(network) if layer == "Convolution"]
    assert kernels
    assert all(kernel.endswith("i8") for kernel in kernels) is not bool(said)
    x = np.random.default_rng(0).standard_normal((1, 16, 6, 6)).astype(np.float32)
    assert np.abs(network(x)[0] - reference(made, x)).max() < 0.1  # as written, whatever the kernel: two steps


def test_a_pair_before_an_activation_costs_a_kernel(tmp_path):
    apart = f"{U8} {W} a = Conv (xd, wd) {pair('a', 'c')} d = Relu (c) {pair('d', 'e')} {SECOND}"
    together = f"{U8} {W} a = Conv (xd, wd) c = Relu (a) {pair('c', 'e')} {SECOND}"
    assert "qdq-before-activation" in {finding.rule for finding in lint(model(apart), TARGETS["openvino"])}
    assert lint(model(together), TARGETS["openvino"]) == []
    counts = [len(layers(compiled(model(body), tmp_path / "model.onnx"))) for body in (apart, together)]
    assert counts[0] > counts[1]


def test_qlinearconv_with_a_scale_for_each_channel_comes_out_wrong(tmp_path):
    made = model("a = Q (x, s, u) c = QLinearConv (a, s, u, w, sw, zw, t, u) y = DQ (c, t, u)")
    errors = [finding.rule for finding in lint(made, TARGETS["openvino"]) if finding.severity == "error"]
    assert errors == ["integer-op"]
    x = np.random.default_rng(0).standard_normal((1, 16, 6, 6)).astype(np.float32)
    assert np.abs(compiled(made, tmp_path / "model.onnx")(x)[0] - reference(made, x)).max() > 0.5
