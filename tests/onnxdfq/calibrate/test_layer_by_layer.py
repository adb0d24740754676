"""Layers rounded one after the other come closer to the float model than layers rounded each for itself."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxdfq.calibrate import layer_by_layer
from onnxdfq.calibrate.layer_by_layer import round_layer_by_layer
from onnxdfq.engine.ort import Session, tapped
from passes.base import PassResult, Skip, run_passes
from passes.freeze_weights import FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.layer_kernels import kernels_of
from passes.placement import CONVOLUTIONS, WEIGHTED, place
from passes.plan import decide
from passes.round_weights import RoundWeights
from passes.targets import OPENVINO, TENSORRT
from passes.weight_quantizer import weight_quantizer
from passes.weight_scales import code_limits
from tests.passes.conftest import canonical, model_of, run

RNG = np.random.default_rng(11)
MAPS = "g (float[N,16,8,8] x) => (float[N,16,8,8] y)"


def weights(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


CASES = {  # text, shapes of parameters, of an image
    "two convolutions": (
        f"{MAPS} {{ a = Conv <pads = [1,1,1,1]> (x, u, b) r = Relu (a) y = Conv <pads = [1,1,1,1]> (r, v, c) }}",
        {"u": (16, 16, 3, 3), "b": (16,), "v": (16, 16, 3, 3), "c": (16,)}, (16, 8, 8),
    ),
    "grouped and depthwise": (
        f"""{MAPS} {{ a = Conv <pads = [1,1,1,1], group = 4> (x, u) r = Relu (a)
            d = Conv <pads = [1,1,1,1], group = 16> (r, v, c) y = Conv (d, w) }}""",
        {"u": (16, 4, 3, 3), "v": (16, 1, 3, 3), "c": (16,), "w": (16, 16, 1, 1)}, (16, 8, 8),
    ),
    "branches of unequal length": (
        f"""{MAPS} {{ p = Abs (x) q = Neg (p) r = Abs (q) a = Conv (r, u) b = Conv (x, v) c = Relu (b) d = Conv (c, w)
            y = Add (a, d) }}""",
        {"u": (16, 16, 1, 1), "v": (16, 16, 1, 1), "w": (16, 16, 1, 1)}, (16, 8, 8),
    ),
    "matrices": (
        """g (float[N,16,8,8] x) => (float[N,8,12] y) {
            s = Reshape (x, rows) f = Gemm <alpha = 0.5, transB = 1> (s, g, b) t = Reshape (f, tokens)
            r = Relu (t) m = MatMul (r, u) n = Add (m, c) o = Relu (n) y = MatMul (o, v)
        }""",
        {"g": (24, 128), "b": (24,), "u": (24, 20), "c": (20,), "v": (20, 12)}, (16, 8, 8),
    ),
}  # fmt: skip
SHAPES = {"rows": [-1, 128], "tokens": [-1, 8, 24]}


def images(*shape, batches=4, count=4):
    """Numbers that neighbours share for the greater part, and channels too."""
    made = []
    for _ in range(batches):
        rough = RNG.standard_normal((count, *shape))
        smooth = sum(np.roll(rough, (i, j), (2, 3)) for i in range(3) for j in range(3)) / 3
        made.append({"x": (0.5 + smooth + 0.7 * smooth.mean(1, keepdims=True)).astype(np.float32)})
    return made


def float_graph(case):
    text, shapes, size = CASES[case]
    held = {name: weights(*shape) for name, shape in shapes.items()}
    held |= {name: np.array(shape) for name, shape in SHAPES.items() if f", {name})" in text}
    return canonical(model_of(text, **held)), images(*size)


def quantized(reference, batches, bits=3, target=TENSORRT):
    """The graph with Q and DQ, its weights still in float, and the layers behind them."""
    graph = gs.import_onnx(gs.export_onnx(reference))
    names = list(place(graph, target).tensors)
    ranges = {name: (float(each.min()), float(each.max())) for name, each in values_of(graph, names, batches).items()}
    run_passes(graph, [InsertQDQ(decide(graph, ranges, target, bits))])
    return graph, {node.name: bits for node in graph.nodes if node.op in WEIGHTED}


def of(graph, name):
    return next(node for node in graph.nodes if node.name == name)


def values_of(graph, names, batches):
    """Tensors of a graph over all batches."""
    session = Session(tapped(gs.export_onnx(graph), [name for name in names if name != "x"]), as_written=True)
    found = [{**batch, **session.run(batch)} for batch in batches]
    return {name: np.concatenate([each[name] for each in found]) for name in names}


def lost(reference, graph, batches):
    """Error of the output, over its variance."""
    expected, computed = (
        np.concatenate([run(gs.export_onnx(each), batch["x"])[0] for batch in batches]) for each in (reference, graph)
    )
    return float(((expected - computed) ** 2).mean() / expected.var())


@pytest.mark.parametrize("case", CASES)
def test_at_3_bits_less_is_lost_than_by_rounding_each_weight_or_kernel_for_itself(case):
    reference, batches = float_graph(case)
    others = images(*CASES[case][2])  # that nothing was fitted to
    figures = {}
    for method in ("nearest", "squant"):
        graph, bits = quantized(reference, batches)
        run_passes(graph, [RoundWeights(method, bits)])
        figures[method] = lost(reference, graph, others)
    graph, bits = quantized(reference, batches)
    result = round_layer_by_layer(graph, reference, bits, batches)
    assert result == PassResult(len(bits), ())
    assert lost(reference, graph, others) < 0.7 * min(figures.values())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scales", ["min-max", "mse", "lp", None])
def test_weights_are_on_their_grids_so_that_freezing_changes_nothing(case, scales):
    reference, batches = float_graph(case)
    graph, bits = quantized(reference, batches)
    round_layer_by_layer(graph, reference, bits, batches, scales=scales)
    low, high = code_limits(3)
    before = {}
    for name in bits:
        place_ = weight_quantizer(of(graph, name))
        codes = kernels_of(of(graph, name), place_.weights.values / place_.column(place_.scale.values))
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
        assert low <= np.rint(codes).min() <= np.rint(codes).max() <= high
        before[name] = place_.weights.values.copy()
    x = batches[0]["x"]
    expected = run(gs.export_onnx(graph), x)[0]
    run_passes(graph, [FreezeWeights()])
    for name, values in before.items():
        dequantize = of(graph, name).inputs[1].inputs[0]
        codes, scale = (tensor.values for tensor in dequantize.inputs[:2])
        assert codes.dtype == np.int8
        shape = [-1 if axis == dequantize.attrs["axis"] else 1 for axis in range(codes.ndim)]
        np.testing.assert_array_equal(codes * scale.reshape(shape), values)
    np.testing.assert_array_equal(run(gs.export_onnx(graph), x)[0], expected)


def test_scales_stay_where_none_are_asked_for_and_are_searched_where_some_are():
    reference, batches = float_graph("two convolutions")
    found = {}
    for scales in ("min-max", "mse", None):
        graph, bits = quantized(reference, batches)
        planned = {name: weight_quantizer(of(graph, name)).scale.values.copy() for name in bits}
        round_layer_by_layer(graph, reference, bits, batches, scales=scales)
        found[scales] = {name: weight_quantizer(of(graph, name)).scale.values for name in bits}
    for name, scale in planned.items():
        np.testing.assert_array_equal(found[None][name], scale)
        assert (found["mse"][name] <= found["min-max"][name]).all()
        assert found["mse"][name].mean() < 0.9 * found["min-max"][name].mean()


def test_a_scale_never_gets_so_small_that_the_bias_does_not_fit_into_int32():
    reference, batches = float_graph("two convolutions")
    layer = of(reference, "Conv_y")
    layer.inputs[1].values[3] *= 1e-9
    layer.inputs[2].values[3] = 100
    graph, bits = quantized(reference, batches)
    round_layer_by_layer(graph, reference, bits, batches)
    scale = weight_quantizer(of(graph, "Conv_y")).scale.values
    read = of(graph, "Conv_y").inputs[0].inputs[0].inputs[1].values
    assert 100 / (scale[3] * float(read)) < 2**31


@pytest.mark.parametrize("case", CASES)
def test_biases_keep_the_means_of_what_layers_write(case, monkeypatch):
    monkeypatch.setattr(layer_by_layer, "FEWEST_ROWS", 10**6)  # all positions, so that the means are exact
    monkeypatch.setattr(layer_by_layer, "MOST_ROWS", 10**6)
    reference, batches = float_graph(case)
    graph, bits = quantized(reference, batches)
    before = means_of(graph, bits, batches)
    round_layer_by_layer(graph, reference, bits, batches)
    expected, after = means_of(reference, bits, batches), means_of(graph, bits, batches)
    assert set(after) == set(expected)
    for name, mean in expected.items():
        np.testing.assert_allclose(after[name], mean, atol=2e-3)
        assert np.abs(before[name] - mean).max() > 5e-3


def means_of(graph, layers, batches):
    """Of each channel that a layer writes, with its bias; of layers that have a place for one."""
    outputs = {}
    for name in layers:
        layer = of(graph, name)
        if layer.op == "MatMul":
            readers = [node for node in layer.outputs[0].outputs if node.op == "Add"]
            if readers:
                outputs[name] = (readers[0].outputs[0].name, -1)
        else:
            outputs[name] = (layer.outputs[0].name, 1 if layer.op in CONVOLUTIONS else -1)
    found = values_of(graph, [tensor for tensor, _ in outputs.values()], batches)
    return {name: np.moveaxis(found[tensor], axis, -1).reshape(-1, found[tensor].shape[axis]).mean(0)
            for name, (tensor, axis) in outputs.items()}  # fmt: skip


def test_layers_are_matched_by_name_where_q_and_dq_change_the_order_of_branches():
    reference, batches = float_graph("branches of unequal length")
    graph, bits = quantized(reference, batches)
    orders = [[node.name for node in each.toposort().nodes if node.op == "Conv"] for each in (reference, graph)]
    assert orders[0] != orders[1]  # else this shows nothing
    before = {name: kernels_of(of(graph, name), weight_quantizer(of(graph, name)).weights.values) for name in bits}
    round_layer_by_layer(graph, reference, bits, batches)
    for name, kernels in before.items():
        after = kernels_of(of(graph, name), weight_quantizer(of(graph, name)).weights.values)
        assert np.corrcoef(after.ravel(), kernels.ravel())[0, 1] > 0.8


def test_patches_that_are_too_large_are_taken_in_parts(monkeypatch):
    reference, batches = float_graph("two convolutions")
    others = images(16, 8, 8)
    figures = []
    for largest in (1152, 100, 50):  # of 144 numbers
        monkeypatch.setattr(layer_by_layer, "LARGEST", largest)
        graph, bits = quantized(reference, batches)
        assert round_layer_by_layer(graph, reference, bits, batches).changed == 2
        figures.append(lost(reference, graph, others))
    assert len(set(figures)) == 3  # what the parts have to do with each other goes unseen
    graph, bits = quantized(reference, batches)
    run_passes(graph, [RoundWeights("nearest", bits)])
    assert max(figures) < 0.7 * lost(reference, graph, others)


def rounded(case, **options):
    reference, batches = float_graph(case)
    graphs = []
    for each in options.pop("seeds"):
        graph, bits = quantized(reference, batches)
        round_layer_by_layer(graph, reference, bits, batches, seed=each, **options)
        graphs.append(gs.export_onnx(graph).SerializeToString())
    return graphs


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(monkeypatch):
    monkeypatch.setattr(layer_by_layer, "FEWEST_ROWS", 200)
    monkeypatch.setattr(layer_by_layer, "MOST_ROWS", 200)
    first, again, other = rounded("two convolutions", seeds=(5, 5, 6))
    assert first == again != other


def test_the_float_graph_and_the_images_stay_and_the_listener_counts():
    reference, batches = float_graph("matrices")
    graph, bits = quantized(reference, batches)
    before, kept, heard = gs.export_onnx(reference).SerializeToString(), [each["x"].copy() for each in batches], []
    round_layer_by_layer(graph, reference, bits, batches, on_layer=lambda *each: heard.append(each))
    assert heard == [(1, 3), (2, 3), (3, 3)]
    assert gs.export_onnx(reference).SerializeToString() == before
    for batch, x in zip(batches, kept, strict=True):
        np.testing.assert_array_equal(batch["x"], x)
        assert list(batch) == ["x"]


def test_only_the_layers_that_are_named_are_rounded_and_each_in_its_bits():
    reference, batches = float_graph("grouped and depthwise")
    graph, _ = quantized(reference, batches, 8)
    before = weight_quantizer(of(graph, "Conv_a")).weights.values.copy()
    result = round_layer_by_layer(graph, reference, {"Conv_d": 2, "Conv_y": 4}, batches)
    assert result == PassResult(2, ())
    np.testing.assert_array_equal(weight_quantizer(of(graph, "Conv_a")).weights.values, before)
    for name, bits in (("Conv_d", 2), ("Conv_y", 4)):
        found = weight_quantizer(of(graph, name))
        codes = set(np.rint(found.weights.values / found.column(found.scale.values)).ravel())
        low, high = code_limits(bits)
        assert codes <= set(range(low, high + 1))
        assert len(codes) > 2 ** (bits - 1)


def test_layers_that_are_not_rounded_here_say_why():
    text = """g (float[N,16,8,8] x) => (float[N,16,9,9] y) {
        a = Conv (x, u) t = ConvTranspose (a, v) y = Conv (t, w)
    }"""
    reference = canonical(model_of(text, u=weights(16, 16, 1, 1), v=weights(16, 16, 2, 2), w=weights(16, 16, 1, 1)))
    batches = images(16, 8, 8)
    share = Skip("ConvTranspose_t", "layer-by-layer", "its channels share a scale")
    kind = Skip("ConvTranspose_t", "layer-by-layer", "ConvTranspose is rounded to nearest")
    for target, skip in ((TENSORRT, share), (OPENVINO, kind)):
        graph, bits = quantized(reference, batches, target=target)
        assert list(bits) == ["Conv_a", "ConvTranspose_t", "Conv_y"]
        layer, plain = of(graph, "ConvTranspose_t"), of(graph, "Conv_y")
        plain.inputs[1] = gs.Constant("plain", of(reference, "Conv_y").inputs[1].values.copy())
        result = round_layer_by_layer(graph, reference, bits, batches)
        assert result == PassResult(1, (skip, Skip("Conv_y", "layer-by-layer", "its weights are not quantized")))
        before = of(reference, "ConvTranspose_t").inputs[1].values
        np.testing.assert_array_equal(layer.inputs[1].inputs[0].inputs[0].inputs[0].inputs[0].values, before)
        np.testing.assert_array_equal(plain.inputs[1].values, of(reference, "Conv_y").inputs[1].values)


def test_a_single_row_is_enough():
    reference = canonical(model_of("g (float[N,16] x) => (float[N,4] y) { y = Gemm (x, u, b) }",
                                   u=weights(16, 4), b=weights(4)))  # fmt: skip
    batches = [{"x": RNG.standard_normal((1, 16)).astype(np.float32)}]
    graph, bits = quantized(reference, batches)
    assert round_layer_by_layer(graph, reference, bits, batches).changed == 1
    assert np.isfinite(weight_quantizer(of(graph, "Gemm_y")).weights.values).all()
    assert lost(reference, graph, batches) < 0.01
