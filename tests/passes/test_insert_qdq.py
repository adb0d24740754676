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
from passes.targets import ORT_ARM, ORT_CPU, QNN, TARGETS, TENSORRT
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


# -- activations of fewer bits, and of more


def few(model, bits, target, ranges):
    """The graph with activations of so many bits, and its plan."""
    graph = canonical(model)
    plan = decide(graph, ranges, target, act_bits=bits)
    run_passes(graph, [InsertQDQ(plan)])
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, plan


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("target", [ORT_CPU, ORT_ARM, TENSORRT, QNN], ids=lambda target: target.name)
@pytest.mark.parametrize("bits", range(2, 8))
def test_an_activation_of_few_bits_has_so_many_values_and_no_other(bits, target, optimized, tmp_path):
    model, x = residual(), 5 * weights(8, 16, 8, 8)
    names = list(place(canonical(model), target).tensors)
    ranges = {
        name: (0.7 * float(each.min()), 0.7 * float(each.max())) for name, each in tensors_of(model, names, x).items()
    }
    after, plan = few(model, bits, target, ranges)
    writers = {node.output[0]: node for node in after.graph.node}
    values = {each.name: numpy_helper.to_array(each) for each in after.graph.initializer}
    found = []
    for node in after.graph.node:
        if node.op_type == "DequantizeLinear" and writers[node.input[0]].input[0] not in values:
            found.append(node.output[0])
    copy = onnx.ModelProto()
    copy.CopyFrom(after)
    known = {entry.name for entry in copy.graph.output}
    copy.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in found if name not in known)
    runner = session(copy, tmp_path / "optimized.onnx" if optimized else None)
    for name, computed in zip(found, runner.run(found, {"x": x}), strict=True):
        params = plan.tensors[name.removesuffix("_dequantized")]
        least, most = params.codes
        grid = np.arange(least, most + 1, dtype=np.float32) - params.zero_point[0]
        assert len(grid) == 2**bits
        grid *= np.float32(params.scale[0])
        assert set(np.unique(computed)) <= set(grid)
        assert len(np.unique(computed)) > 1


def ops(model):
    return [node.op_type for node in model.graph.node]


def limits(model):
    """What each Clip with constant bounds lets through."""
    values = {each.name: float(numpy_helper.to_array(each)) for each in model.graph.initializer if not each.dims}
    clips = [node for node in model.graph.node if node.op_type == "Clip" and set(node.input[1:]) <= set(values)]
    return [tuple(values[name] for name in node.input[1:]) for node in clips]


BEFORE = {  # what writes the activation: what stands before its quantizer, for codes from 0 to 3 in steps of 1
    "r = Relu (x)": (["Clip"], (0, 3)),
    "r = Clip (x, zero, six)": (["Clip"], (0, 3)),
    "r = Clip (x, zero, two)": (["Clip"], (0, 2)),
    "r = Clip (x, two, six)": (["Clip"], (2, 3)),
    "r = Clip (x, zero1, six1)": (["Clip"], (0, 3)),  # bounds with an axis, as some exporters write them
    "r = Clip (x, five, six)": (["Clip"], (3, 3)),
    "r = Clip (x, , six)": (["Clip"], (0, 3)),
    "r = Clip (x)": (["Clip"], (0, 3)),
    "r = Sigmoid (x)": (["Sigmoid", "Clip"], (0, 3)),
    "h = ReduceMax <keepdims = 0> (x) r = Clip (x, zero, h)": (["ReduceMax", "Clip", "Clip"], (0, 3)),
    "r = Relu (x) e = Exp (r)": (["Relu", "Exp", "Clip"], (0, 3)),  # somebody else reads it
}


@pytest.mark.parametrize("before", BEFORE)
def test_a_relu_or_clip_before_the_quantizer_does_the_clipping(before):
    expected, clipped = BEFORE[before]
    also = ", float[N,4] e" if "e =" in before else ""
    text = f"g (float[N,4] x) => (float[N,4] y{also}) {{ {before} y = Neg (r) }}"
    model = model_of(
        text,
        zero=np.float32(0),
        zero1=np.float32([0]),
        six1=np.float32([6]),
        two=np.float32(2),
        five=np.float32(5),
        six=np.float32(6),
    )
    graph = gs.import_onnx(model)
    for node in graph.nodes:
        node.name = f"{node.op}_{node.outputs[0].name}"
    params = QuantParams("uint8", 2, (1.0,), (0,), None, "test", (0, 3))
    run_passes(graph, [InsertQDQ(QuantPlan("test", {"r": params}, {"r": ("Neg_y",)}, ()))])
    after = gs.export_onnx(graph)
    assert sorted(ops(after)) == sorted([*expected, "QuantizeLinear", "DequantizeLinear", "Neg"])
    assert limits(after) == [clipped]
    x = np.float32([[-2, 0.2, 2.4, 9]])
    np.testing.assert_array_equal(run(after, x)[0], -np.rint(np.clip(-run(model, x)[0], 0, 3)))


def test_an_output_and_an_input_of_the_model_are_clipped_beside_themselves():
    model = model_of("g (float[N,4] x) => (float[N,4] r, float[N,4] y) { r = Relu (x) y = Abs (r) }")
    graph = canonical(model)
    params = QuantParams("int8", 3, (1.0,), (0,), None, "test", (-4, 3))
    plan = QuantPlan("test", dict.fromkeys("xr", params), {"x": ("Relu_r",), "r": ("Abs_y",)}, ())
    run_passes(graph, [InsertQDQ(plan)])
    after = gs.export_onnx(graph)
    assert interface(after) == interface(model)
    assert sorted(ops(after)) == ["Abs", "Clip", "Clip", "DequantizeLinear", "DequantizeLinear", "QuantizeLinear",
                                  "QuantizeLinear"]  # fmt: skip
    assert [each.tolist() for each in run(after, np.float32([[-9, 1.2, 9, 0]]))] == [[[0, 1, 3, 0]]] * 2


def test_a_name_that_the_model_uses_is_not_used_again():
    model = model_of("g (float[4] x) => (float[4] y, float[4] x_clipped) { x_clipped = Exp (x) y = Abs (x) }")
    graph = canonical(model)
    params = QuantParams("uint8", 2, (1.0,), (0,), None, "test", (0, 3))
    run_passes(graph, [InsertQDQ(QuantPlan("test", {"x": params}, {"x": ("Abs_y",)}, ()))])
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    x = np.float32([-1, 0.6, 2, 8])
    np.testing.assert_array_equal(run(after, x)[0], [0, 1, 2, 3])
    np.testing.assert_allclose(run(after, x)[1], np.exp(x), rtol=1e-6)


def test_sixteen_bits_bring_the_model_to_the_opset_that_has_them():
    model, x = residual(), weights(4, 16, 8, 8)
    seen = tensors_of(model, place(canonical(model), QNN).tensors, x)
    ranges = {name: (float(each.min()), float(each.max())) for name, each in seen.items()}
    (wide, plan), (plain, _) = few(model, 16, QNN, ranges), few(model, 8, QNN, ranges)
    assert (wide.opset_import[0].version, plain.opset_import[0].version) == (21, 17)
    assert interface(wide) == interface(model)
    assert {params.dtype for name, params in plan.tensors.items() if name in plan.readers} == {"uint16"}
    for expected, ours, theirs in zip(run(model, x), run(wide, x), run(plain, x), strict=True):
        assert decibels(expected, ours) > decibels(expected, theirs) + 3  # what is left is the error of the weights


def test_sixteen_bits_where_the_model_cannot_be_brought_there():
    model = model_of("g (float[1,4,2] x) => (float[1,4,2] y) { y = GroupNormalization <num_groups = 2> (x, v, v) }",
                     21, v=weights(2))  # fmt: skip
    model.opset_import[0].version = 18  # where it is another operator
    params = QuantParams("uint16", 16, (1.0,), (0,), None, "test")
    with pytest.raises(PassError, match="GroupNormalization of opset 18") as caught:
        run_passes(gs.import_onnx(model), [InsertQDQ(QuantPlan("test", {"x": params}, {"x": ()}, ()))])
    assert isinstance(caught.value.__cause__, ValueError)


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
