"""Q/DQ pairs stand where the plan says, the interface of the model survives, and the runtime fuses them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper, numpy_helper

from passes.base import PassError, run_passes
from passes.insert_qdq import InsertQDQ
from passes.placement import place
from passes.plan import QuantParams, QuantPlan, decide
from passes.targets import ORT_CPU, TARGETS, TENSORRT
from tests.passes.conftest import canonical, decibels, interface, kernels, model_of, run, session

RNG = np.random.default_rng(4)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def tensors_of(model, names, x):
    """The values of some tensors of a float model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {entry.name for entry in model.graph.output}
    copy.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names if name not in known)
    runner = session(copy)
    return dict(zip([entry.name for entry in runner.get_outputs()], runner.run(None, {"x": x}), strict=True)) | {"x": x}


def quantized(model, target, x):
    """The model with Q/DQ, ranges taken from x itself, and its plan."""
    graph = canonical(model)
    seen = tensors_of(gs.export_onnx(graph), place(graph, target).tensors, x)
    plan = decide(graph, {name: (float(each.min()), float(each.max())) for name, each in seen.items()}, target)
    result = run_passes(graph, [InsertQDQ(plan)])[0]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    assert result.changed == len([node for node in after.graph.node if node.op_type == "QuantizeLinear"])
    return after, plan


RESIDUAL = """g (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] t, float[N,10] z) {
    a = Conv <pads = [1,1,1,1]> (x, u, b) r = Relu (a) c = Conv <pads = [1,1,1,1]> (r, w, b) s = Add (c, r)
    t = Relu (s) y = Conv (t, v) p = GlobalAveragePool (t) f = Flatten (p) z = Gemm (f, m)
}"""


def residual():
    return model_of(RESIDUAL, u=weights(16, 16, 3, 3), w=weights(16, 16, 3, 3), b=weights(16), v=weights(16, 16, 1, 1),
                    m=weights(16, 10))  # fmt: skip


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_names_order_and_dimensions_survive_and_the_numbers_stay_close(target):
    model, x = residual(), weights(4, 16, 8, 8)
    after, _ = quantized(model, target, x)
    assert interface(after) == interface(model)
    for expected, computed in zip(run(model, x), run(after, x), strict=True):
        assert expected.shape == computed.shape
        assert 25 < decibels(expected, computed) < 80  # quantized, and not much worse for it


def test_onnx_runtime_fuses_all_of_it(tmp_path):
    after, _ = quantized(residual(), ORT_CPU, weights(4, 16, 8, 8))
    fused = kernels(after, tmp_path)
    assert (fused["QLinearConv"], fused["QLinearAdd"], fused["QLinearGlobalAveragePool"], fused["QGemm"]) == (
        3,
        1,
        1,
        1,
    )
    assert fused["QuantizeLinear"] == 1  # the input
    assert fused["DequantizeLinear"] == 2  # y and t; the scores leave the Gemm in float
    assert not {"Conv", "Relu", "Gemm", "Add", "GlobalAveragePool"} & set(fused)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_pairs_stand_before_the_readers_of_the_plan_and_nowhere_else(target):
    model = residual()
    after, plan = quantized(model, target, weights(2, 16, 8, 8))
    writer = {name: node for node in after.graph.node for name in node.output}
    for node in after.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert len(node.input) == 3
            continue
        for name in node.input:
            source = writer.get(name)
            if source is None or source.op_type != "DequantizeLinear":
                quantizes = name in plan.readers and node.name in plan.readers[name]
                assert not quantizes, f"{node.name} reads {name} in float"
                continue
            codes = writer[source.input[0]]
            assert codes.op_type == "QuantizeLinear"
            assert codes.input[1:] == source.input[1:]  # one scale, one zero-point for both
            tensor = codes.input[0].removesuffix("_float")
            assert node.name in plan.readers.get(tensor, (node.name,))
            assert tensor in plan.tensors


def test_scale_zero_point_and_axis_are_written_as_the_plan_has_them():
    after, plan = quantized(residual(), ORT_CPU, weights(2, 16, 8, 8))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    for node in after.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        params = plan.tensors[node.input[0].removesuffix("_float")]
        scale, zero = values[node.input[1]], values[node.input[2]]
        axis = {each.name: each.i for each in node.attribute}.get("axis")
        assert (scale.dtype, zero.dtype) == (np.float32, np.dtype(params.dtype))
        assert scale.shape == zero.shape == (() if params.axis is None else (len(params.scale),))
        assert scale.reshape(-1).tolist() == list(params.scale)
        assert zero.reshape(-1).tolist() == list(params.zero_point)
        assert axis == params.axis


def test_a_reader_that_is_not_in_the_plan_keeps_reading_float():
    model = model_of("g (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Exp (x) z = Abs (x) }")
    graph = gs.import_onnx(model)
    params = QuantParams("int8", 8, (0.5,), (0,), None, "test")
    for node in graph.nodes:
        node.name = node.op
    run_passes(graph, [InsertQDQ(QuantPlan("test", {"x": params}, {"x": ("Abs",)}, ()))])
    x = np.float32([[0.1, 0.3, -0.8, 70]])
    y, z = run(gs.export_onnx(graph), x)
    np.testing.assert_allclose(y, np.exp(x), rtol=1e-5)
    assert z.tolist() == [[0, 0.5, 1, 63.5]]


def test_a_tensor_read_twice_by_one_node_is_quantized_once():
    graph = gs.import_onnx(model_of("g (float[4] x) => (float[4] y) { y = Mul (x, x) }"))
    graph.nodes[0].name = "mul"
    params = QuantParams("uint8", 8, (0.5,), (128,), None, "test")
    run_passes(graph, [InsertQDQ(QuantPlan("test", {"x": params}, {"x": ("mul",)}, ()))])
    after = gs.export_onnx(graph)
    assert [node.op_type for node in after.graph.node] == ["QuantizeLinear", "DequantizeLinear", "Mul"]
    assert run(after, np.float32([1.1, -0.6, 0, 70]))[0].tolist() == [1, 0.25, 0, 63.5**2]


def test_an_output_that_also_has_float_readers_stays_in_float():
    model = model_of(
        """g (float[N,16,4,4] x) => (float[N,16,4,4] a, float[A,B,C,D] y) {
            a = Relu (x) b = Exp (a) h = Conv (a, w) y = Mul (b, h)
        }""",
        w=weights(16, 16, 1, 1),
    )  # fmt: skip
    x = weights(2, 16, 4, 4)
    after, plan = quantized(model, TENSORRT, x)
    assert plan.readers["a"] == ("Conv_h",)
    np.testing.assert_array_equal(session(after).run(["a"], {"x": x})[0], np.maximum(x, 0))


def test_a_tensor_that_the_graph_lacks_is_an_error():
    graph = gs.import_onnx(model_of("g (float[4] x) => (float[4] y) { y = Abs (x) }"))
    params = QuantParams("int8", 8, (1.0,), (0,), None, "test")
    with pytest.raises(PassError, match=r"insert-qdq.*nowhere") as caught:
        run_passes(graph, [InsertQDQ(QuantPlan("test", {"nowhere": params}, {}, ()))])
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_empty_plan_changes_nothing():
    model = residual()
    graph = gs.import_onnx(model)
    assert run_passes(graph, [InsertQDQ(QuantPlan("test", {}, {}, ()))])[0].changed == 0
    x = weights(1, 16, 8, 8)
    for ours, theirs in zip(run(gs.export_onnx(graph), x), run(model, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
