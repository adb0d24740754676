"""After the correction every layer's channels have the means they had in float."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from onnxdfq.calibrate.bias_correction import channel_means, correct_biases
from passes.base import Skip, run_passes
from passes.canonicalize import CANONICAL
from passes.insert_qdq import InsertQDQ
from passes.placement import place
from passes.plan import decide
from passes.targets import ORT_CPU, TARGETS, TENSORRT

RNG = np.random.default_rng(2)


def weights(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def model_of(text, opset=17, **initializers):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    run_passes(graph, CANONICAL)
    return onnx.shape_inference.infer_shapes(gs.export_onnx(graph))


def values_of(model, names, batches):
    """Tensors of a model over all batches."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = [session.run(None, dict(batch)) for batch in batches]
    return {name: np.concatenate(part) for name, part in zip(names, zip(*parts, strict=True), strict=True)}


def means(model, axes, batches):
    found = values_of(model, list(axes), batches)
    return {name: np.moveaxis(each, axes[name], -1).reshape(-1, each.shape[axes[name]]).mean(0, dtype=np.float64)
            for name, each in found.items()}  # fmt: skip


def coarse(model, target, batches, bits):
    """The model with Q/DQ, its weights in a few bits only."""
    graph = gs.import_onnx(model)
    names = list(place(graph, target).tensors)
    inner = [name for name in names if name != "x"]
    seen = values_of(model, inner, batches) | {"x": np.concatenate([batch["x"] for batch in batches])}
    ranges = {name: (float(each.min()), float(each.max())) for name, each in seen.items()}
    run_passes(graph, [InsertQDQ(decide(graph, ranges, target, bits))])
    return gs.export_onnx(graph)


def corrected(model, quantized, axes, batches, **more):
    """The quantized model with the means that the layers of the float one have; axes: of channels, by layer."""
    graph = gs.import_onnx(quantized)
    outputs = {node.name: node.output[0] for node in model.graph.node if node.name in axes}
    found = channel_means(model, {outputs[layer]: axis for layer, axis in axes.items()}, batches)
    expected = {layer: found[outputs[layer]] for layer in axes}
    result = correct_biases(graph, sorted(axes), expected, axes, batches, **more)
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after)
    return after, result


def far(expected, computed):
    return {name: float(np.abs(expected[name] - computed[name]).max()) for name in expected}


def images(*shape, count=3):
    return [{"x": np.abs(RNG.standard_normal(shape)).astype(np.float32)} for _ in range(count)]


CASES = {
    # text, parameters, layers -> axis of their channels, shape of a batch, tensors whose means have to be right
    "convolutions": (
        "g (float[N,16,6,6] x) => (float[N,16,6,6] y) { a = Conv (x, u, b) r = Relu (a) y = Conv (r, v) }",
        {"u": (16, 16, 1, 1), "b": (16,), "v": (16, 16, 1, 1)}, {"Conv_a": 1, "Conv_y": 1},
        (4, 16, 6, 6), {"a": 1, "y": 1},
    ),
    "transposed": (
        "g (float[N,16,6,6] x) => (float[N,16,7,7] y) { a = Conv (x, u) r = Relu (a) y = ConvTranspose (r, v) }",
        {"u": (16, 16, 1, 1), "v": (16, 16, 2, 2)}, {"Conv_a": 1, "ConvTranspose_y": 1},
        (4, 16, 6, 6), {"a": 1, "y": 1},
    ),
    "matmul and add": (
        """g (float[N,5,16] x) => (float[N,5,16] y) {
            a = MatMul (x, u) p = Add (a, b) r = Relu (p) c = MatMul (r, v) y = Add (d, c)
        }""",
        {"u": (16, 16), "b": (16,), "v": (16, 16), "d": (16,)}, {"MatMul_a": -1, "MatMul_c": -1},
        (4, 5, 16), {"p": -1, "y": -1},
    ),
    "gemm on the rows of all tokens": (
        """g (float[N,5,16] x) => (float[N,5,16] y) {
            f = Reshape (x, rows) a = Gemm (f, u, b) r = Relu (a) c = Gemm <transB = 1> (r, v) y = Reshape (c, back)
        }""",
        {"u": (16, 16), "b": (16,), "v": (16, 16), "rows": [-1, 16], "back": [-1, 5, 16]},
        {"Gemm_a": -1, "Gemm_c": -1}, (4, 5, 16), {"a": -1, "c": -1},
    ),
    "residual": (
        """g (float[N,16,6,6] x) => (float[N,16,6,6] y) {
            a = Conv (x, u, b) r = Relu (a) c = Conv (r, v, b) s = Add (c, r) t = Relu (s) y = Conv (t, u)
        }""",
        {"u": (16, 16, 1, 1), "b": (16,), "v": (16, 16, 1, 1)},
        {"Conv_a": 1, "Conv_c": 1, "Conv_y": 1}, (4, 16, 6, 6), {"a": 1, "c": 1, "y": 1},
    ),
}  # fmt: skip


def built(case, opset=17):
    text, parameters, axes, shape, right = CASES[case]
    given = {name: weights(*size) if isinstance(size, tuple) else np.array(size) for name, size in parameters.items()}
    return model_of(text, opset, **given), axes, images(*shape), right


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("opset", [17, 18])  # ReduceMean takes its axes in another way
def test_the_means_of_all_channels_come_back(case, opset):
    model, axes, batches, right = built(case, opset)
    quantized = coarse(model, TENSORRT, batches, 3)
    after, result = corrected(model, quantized, axes, batches)
    assert (result.changed, result.skips) == (len(axes), ())
    # what a layer wrote is read through its quantizer now: look at the tensor before it
    expected = means(model, right, batches)
    before, now = (far(expected, means(each, right, batches)) for each in (quantized, after))
    for name in right:
        assert before[name] > 0.02  # there was something to correct
        assert now[name] < 1e-4


def test_an_output_that_is_quantized_is_corrected_before_its_quantizer():
    model, axes, batches, _ = built("convolutions")
    quantized = coarse(model, ORT_CPU, batches, 3)
    after, _ = corrected(model, quantized, axes, batches)
    inner = {node.name: node.output[0] for node in after.graph.node if node.name in axes}
    assert inner["Conv_y"] != "y"  # the output of the model comes from DequantizeLinear
    for layer, name in (("Conv_a", "a"), ("Conv_y", "y")):
        expected = means(model, {name: 1}, batches)[name]
        np.testing.assert_allclose(means(after, {inner[layer]: 1}, batches)[inner[layer]], expected, atol=1e-4)


@pytest.mark.parametrize("axis", [1, -1, 3])
def test_channel_means_are_those_of_numpy(axis):
    model = model_of("g (float[N,4,5,6] x) => (float[N,4,5,6] y) { y = Tanh (x) }")
    batches = [*images(3, 4, 5, 6), *images(1, 4, 5, 6, count=1)]  # batches of unequal size
    found = channel_means(model, {"y": axis}, batches)["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, means(model, {"y": axis}, batches)["y"], rtol=1e-5)


def test_channel_means_of_rows_count_the_rows_and_not_the_images():
    model = model_of("g (float[N,5,4] x) => (float[M,4] y) { y = Reshape (x, rows) }", rows=np.array([-1, 4]))
    batches = [*images(3, 5, 4), *images(1, 5, 4, count=1)]
    found = channel_means(model, {"y": -1}, batches)["y"]
    np.testing.assert_allclose(found, np.concatenate([batch["x"] for batch in batches]).mean((0, 1)), rtol=1e-6)


def test_a_layer_without_a_place_for_a_bias_is_skipped_and_the_others_are_corrected():
    model = model_of(
        "g (float[N,5,16] x) => (float[N,5,16] y) { a = MatMul (x, u) r = Relu (a) p = MatMul (r, v) y = Add (p, b) }",
        u=weights(16, 16), v=weights(16, 16), b=weights(16),
    )  # fmt: skip
    batches = images(4, 5, 16)
    quantized = coarse(model, TENSORRT, batches, 3)
    after, result = corrected(model, quantized, {"MatMul_a": -1, "MatMul_p": -1}, batches)
    assert result.changed == 1
    assert result.skips == (Skip("MatMul_a", "bias-correction", "it has no place for a bias"),)
    expected = means(model, {"y": -1}, batches)
    assert far(expected, means(after, {"y": -1}, batches))["y"] < 1e-4 < 0.02 < far(
        expected, means(quantized, {"y": -1}, batches)
    )["y"]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_model_that_was_not_quantized_is_left_as_it_is(target):
    model, axes, batches, right = built("residual")
    after, _ = corrected(model, model, axes, batches)
    assert max(far(means(model, right, batches), means(after, right, batches)).values()) < 1e-5


def test_only_biases_change_the_listener_counts_and_the_images_stay():
    model, axes, batches, _ = built("convolutions")
    quantized = coarse(model, TENSORRT, batches, 3)
    heard, kept = [], [batch["x"].copy() for batch in batches]
    after, _ = corrected(model, quantized, axes, batches, on_layer=lambda *each: heard.append(each))
    assert heard == [(1, 2), (2, 2)]
    for batch, before in zip(batches, kept, strict=True):
        np.testing.assert_array_equal(batch["x"], before)
        assert list(batch) == ["x"]
    assert list(after.graph.output) == list(quantized.graph.output)
    arrays = [{each.name: numpy_helper.to_array(each) for each in one.graph.initializer} for one in (quantized, after)]
    changed = {name for name, each in arrays[1].items() if not np.array_equal(each, arrays[0].get(name))}
    assert changed == {"b", "y_bias"}


def test_nothing_to_correct_is_no_error():
    model, _, batches, _ = built("convolutions")
    assert corrected(model, model, {}, batches)[1].changed == 0
