"""Packed weights take the bytes they need, run on the same integer kernels, and give the same numbers bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, numpy_helper, version_converter

from passes.base import run_passes
from passes.freeze_weights import FreezeBiases, FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.pack_weights import PackWeights, bits_of, packed, packed_size
from passes.placement import place
from passes.plan import decide
from passes.remove_qdq import RemoveQDQ
from passes.stored_weights import Stored, stored_weights
from passes.targets import ORT_CPU, TENSORRT
from tests.passes.conftest import canonical, kernels, model_of, session

RNG = np.random.default_rng(4)
CONTAINERS = ((2, 25), (4, 21))


def quantized(text, bits, opset=17, **initializers):
    """The model of a text with ``bits`` for all weights, or for each by name, in int8 containers."""
    arrays = {
        name: RNG.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else value
        for name, value in initializers.items()
    }
    graph = canonical(model_of(text, opset, 10, **arrays))
    plan = decide(graph, dict.fromkeys(place(graph, ORT_CPU).tensors, (0.0, 4.0)), ORT_CPU, bits)
    run_passes(graph, [InsertQDQ(plan), FreezeBiases(ORT_CPU.int32_bias_written), FreezeWeights()])
    return gs.export_onnx(graph)


def pack(model, packed_from=CONTAINERS, **options):
    graph = gs.import_onnx(model)
    result = run_passes(graph, [PackWeights(packed_from, **options)])[0]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, result


def same_numbers(one, other, folder):
    shape = [entry.dim_value or 3 for entry in one.graph.input[0].type.tensor_type.shape.dim]
    x = RNG.uniform(0, 4, shape).astype(np.float32)
    pairs = zip(*(session(model, folder / "fused").run(None, {"x": x}) for model in (one, other)), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


def types(model):
    return {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}


CONV = "g (float[N,16,9,9] x) => (float[A,B,C,D] y) {{ a = Conv <{attributes}> (x, w, b) y = Relu (a) }}"
LAYERS = {  # how a layer stands in a model, the shape of its weights, and the kernel that has to run it
    "3x3": (CONV.format(attributes="pads = [1,1,1,1]"), (16, 16, 3, 3), "QLinearConv"),
    "strided": (CONV.format(attributes="strides = [2,2]"), (16, 16, 3, 3), "QLinearConv"),
    "1x1": (CONV.format(attributes="group = 1"), (16, 16, 1, 1), "QLinearConv"),
    "grouped": (CONV.format(attributes="group = 4"), (16, 4, 3, 3), "QLinearConv"),
    "depthwise": (CONV.format(attributes="group = 16"), (16, 1, 3, 3), "QLinearConv"),
    "Gemm": ("g (float[N,16] x) => (float[N,16] y) { y = Gemm (x, w, b) }", (16, 16), "QGemm"),
    "Gemm of torch": ("g (float[N,16] x) => (float[N,16] y) { y = Gemm <transB = 1> (x, w, b) }", (16, 16), "QGemm"),
    "Gemm without bias": ("g (float[N,16] x) => (float[N,16] y) { y = Gemm <transB = 1> (x, w) }", (16, 16), "QGemm"),
    "MatMul": ("g (float[N,5,16] x) => (float[N,5,16] y) { y = MatMul (x, w) }", (16, 16), "MatMulIntegerToFloat"),
    "MatMul into integers": (
        """g (float[N,5,16] x) => (float[N,16,5] y) {
            a = MatMul (x, w) t = Transpose <perm = [0,2,1]> (a) y = MatMul (t, v)
        }""",
        (16, 16), "QLinearMatMul",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("bits", "container", "opset"), [(4, "INT4", 21), (3, "INT4", 21), (2, "INT2", 25)])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_runs_on_its_integer_kernel_with_the_same_numbers(name, bits, container, opset, tmp_path):
    text, shape, kernel = LAYERS[name]
    operands = {key: value for key, value in {"b": (16,), "v": (5, 5)}.items() if f", {key})" in text}
    model = quantized(text, bits, w=shape, **operands)
    after, result = pack(model)
    assert result.changed == len([key for key in operands if key == "v"]) + 1
    assert after.opset_import[0].version == opset
    assert container in types(after).values()
    assert "INT8" not in {types(after)[node.input[0]] for node in after.graph.node if node.op_type == "Cast"}
    found = kernels(after, tmp_path)
    assert found == kernels(model, tmp_path)
    assert found[kernel] >= 1
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Cast"} & set(found)
    assert same_numbers(model, after, tmp_path)


def test_before_and_after():
    model = quantized(LAYERS["1x1"][0], 4, w=(16, 16, 1, 1), b=(16,))
    after, _ = pack(model)
    writers = {node.output[0]: node for node in after.graph.node}
    weights = writers[next(node for node in after.graph.node if node.op_type == "Conv").input[1]]
    cast = writers[weights.input[0]]
    assert (weights.op_type, cast.op_type, cast.attribute[0].i) == ("DequantizeLinear", "Cast", TensorProto.INT8)
    assert types(after)[cast.input[0]] == "INT4"
    assert types(after)[weights.input[2]] == "INT8"  # the zero-point fits what the Cast writes
    codes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}[weights.input[0]]
    held = next(tensor for tensor in after.graph.initializer if tensor.name == cast.input[0])
    np.testing.assert_array_equal(numpy_helper.to_array(held).astype(np.int8), codes)


@pytest.mark.parametrize(("bits", "share"), [(4, 0.5), (2, 0.25)])
def test_the_bytes_on_disk(bits, share):
    model = quantized(CONV.format(attributes="group = 1"), bits, w=(64, 16, 3, 3), b=(64,))
    after, _ = pack(model)
    before_weights, after_weights = (stored_weights(gs.import_onnx(each))[0] for each in (model, after))
    assert before_weights == Stored("Conv_a", "INT8", 9216, 9216)
    assert after_weights == Stored("Conv_a", f"INT{bits}", 9216, int(9216 * share))
    assert model.ByteSize() - after.ByteSize() > 9216 * (1 - share) - 200


# -- one number format, against the reference implementation


@pytest.mark.parametrize("elements", [1, 2, 3, 4, 5, 7, 8, 1001])
@pytest.mark.parametrize(("bits", "dtype"), [(4, ml_dtypes.int4), (2, ml_dtypes.int2)])
def test_packing_is_that_of_onnx(elements, bits, dtype):
    codes = RNG.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), elements).astype(np.int8)
    assert packed("w", codes, bits) == numpy_helper.from_array(codes.astype(dtype), "w")
    assert len(packed("w", codes, bits).raw_data) == packed_size(elements, bits)


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 0, 2), (-2, 1, 2), (-1, 1, 2), (-3, 1, 3), (0, 2, 3), (-7, 7, 4), (-8, 7, 4), (-8, 8, 5), (-127, 127, 8),
     (-128, 0, 8)],
)  # fmt: skip
def test_the_fewest_bits(low, high, bits):
    assert bits_of(np.int8([0, low, high])) == bits


# -- how far the opset is raised

TWO = "g (float[N,64] x) => (float[N,64] y) { a = Gemm (x, u, b) y = Gemm (a, v, b) }"
TWO_SIZED = {"u": (64, 64), "v": (64, 64), "b": (64,)}


def test_eight_bits_stay_as_they_are():
    model = quantized(TWO, 8, **TWO_SIZED)
    after, result = pack(model)
    assert (result.changed, result.skips) == (0, ())
    assert after == model


def test_a_runtime_without_containers_gets_none():
    model = quantized(TWO, 2, **TWO_SIZED)
    assert TENSORRT.packed_from == ()
    after, result = pack(model, TENSORRT.packed_from)
    assert (result.changed, result.skips) == (0, ())
    assert after == model


@pytest.mark.parametrize(("bits", "opset", "after"), [(4, 17, 21), (2, 17, 25), (4, 22, 22), (2, 25, 25)])
def test_the_opset_is_raised_as_far_as_needed(bits, opset, after):
    model, result = pack(quantized(TWO, bits, opset, **TWO_SIZED))
    assert result.changed == 2
    assert model.opset_import[0].version == after


def test_two_bits_go_into_four_where_the_runtime_knows_nothing_smaller():
    after, result = pack(quantized(TWO, 2, **TWO_SIZED), ((4, 21),))
    assert (result.changed, result.skips) == (2, ())
    assert sorted(each.container for each in stored_weights(gs.import_onnx(after))) == ["INT4", "INT4"]


def test_layers_of_different_bits():
    after, result = pack(quantized(TWO, {"u": 2, "v": 8}, **TWO_SIZED))
    assert result.changed == 1
    assert [each.container for each in stored_weights(gs.import_onnx(after))] == ["INT2", "INT8"]


def dead_layer(opset=17):
    """A model of 8 bits with a small layer of zeros, whose codes would fit into anything."""
    return quantized(
        "g (float[N,128] x) => (float[N,1] y) { a = Gemm (x, u, b) y = Gemm (a, v) }", 8, opset,
        u=(128, 640), b=(640,), v=np.zeros((640, 1), np.float32),
    )  # fmt: skip


def test_an_opset_is_not_raised_for_next_to_nothing():
    after, result = pack(dead_layer())
    assert (result.changed, after.opset_import[0].version) == (0, 17)
    reason = "opset 25 would save 480 of 82560 bytes"
    assert [(skip.node, skip.rule, skip.reason) for skip in result.skips] == [
        ("Gemm_y", "pack-weights", f"its 2-bit weights are stored in 8 bits: {reason}")
    ]


def test_what_costs_nothing_is_taken():
    after, result = pack(dead_layer(opset=25))
    assert (result.changed, result.skips) == (1, ())
    assert [each.container for each in stored_weights(gs.import_onnx(after))] == ["INT8", "INT2"]


def test_an_opset_that_the_converter_cannot_reach(monkeypatch):
    convert = version_converter.convert_version

    def refuse(model, version):
        if version > 21:
            raise RuntimeError("no such version")
        return convert(model, version)

    model = quantized(TWO, 2, **TWO_SIZED)
    monkeypatch.setattr(version_converter, "convert_version", refuse)
    after, result = pack(model)
    assert (result.changed, after.opset_import[0].version) == (2, 21)
    assert {each.container for each in stored_weights(gs.import_onnx(after))} == {"INT4"}
    reason = "its 2-bit weights are stored in 4 bits: opset 17 can't be raised to 25: no such version"
    assert [skip.reason for skip in result.skips] == [reason] * 2


def test_operators_that_the_runtime_lacks_in_newer_opsets():
    text = """g (float[N,64,3,3] x, float[M,4] boxes) => (float[M,8,2,2] y) {
        a = Conv (x, u) y = RoiAlign <output_height = 2, output_width = 2> (a, boxes, batch)
    }"""
    model = quantized(text, 2, u=(8, 64, 1, 1), batch=np.array([0, 0]))
    after, result = pack(model, newest={"RoiAlign": 21})
    assert (result.changed, after.opset_import[0].version) == (1, 21)
    assert [(skip.node, skip.reason) for skip in result.skips] == [
        ("Conv_a", "its 2-bit weights are stored in 4 bits: the runtime has no RoiAlign of opset 25")
    ]
    session(after)


# -- what is no weight of a layer, or not of this one alone


def test_weights_that_two_layers_share_are_packed_once(tmp_path):
    text = "g (float[N,64] x) => (float[N,64] y) { a = Gemm (x, u, b) y = Gemm (a, u, b) }"
    model = quantized(text, 4, u=(64, 64), b=(64,))
    after, result = pack(model)
    assert result.changed == 1
    assert [(each.layer, each.container) for each in stored_weights(gs.import_onnx(after))] == [
        ("Gemm_a", "INT4"), ("Gemm_y", "INT4")
    ]  # fmt: skip
    assert same_numbers(model, after, tmp_path)


OTHERS = {
    "read by something else": "d = DequantizeLinear (w, s, z) k = MatMul (x, d) c = Cast <to = 1> (w) y = Add (k, c)",
    "used as zero-points": "d = DequantizeLinear (v, t, w) y = MatMul (x, d)",
    "an output of the model": "d = DequantizeLinear (w, s, z) y = MatMul (x, d)",
    "no matrix": "d = DequantizeLinear (u, s, z) y = Mul (x, d)",
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_integers_stay_as_they_are(case):
    outputs = "float[4,4] y, int8[4,4] w" if case == "an output of the model" else "float[4,4] y"
    values = {"w": np.int8(np.eye(4)), "s": np.float32(0.1), "z": np.int8(0), "u": np.int8([1, 0, 1, 0]),
              "v": np.full((4, 4), 100, np.int8), "t": np.ones((4, 4), np.float32)}  # fmt: skip
    words = OTHERS[case].replace("(", " ").replace(")", " ").replace(",", " ").split()
    held = {name: value for name, value in values.items() if name in words}
    model = model_of(f"g (float[4,4] x) => ({outputs}) {{ {OTHERS[case]} }}", 21, 10, **held)
    assert pack(model)[1].changed == 0


def test_names_that_are_taken(tmp_path):
    taken = "u_quantized_int4"
    text = f"g (float[N,16] x) => (float[N,16] y) {{ {taken} = Relu (x) y = Gemm ({taken}, u) }}"
    model = quantized(text, 4, u=(16, 16))
    after, result = pack(model)
    assert result.changed == 1
    assert same_numbers(model, after, tmp_path)


def test_packed_models_survive_another_round():
    after, _ = pack(quantized(TWO, {"u": 2, "v": 4}, **TWO_SIZED))
    again, result = pack(after)
    assert result.changed == 0
    assert again == after


def test_taking_the_quantizers_out_sees_through_the_cast():
    model = quantized(TWO, 4, **TWO_SIZED)
    graphs = [gs.import_onnx(each) for each in (model, pack(model)[0])]
    for graph in graphs:
        run_passes(graph, [RemoveQDQ()])
    plain, packed_one = ({name: tensor.values for name, tensor in graph.tensors().items()
                          if isinstance(tensor, gs.Constant)} for graph in graphs)  # fmt: skip
    assert plain.keys() == packed_one.keys()
    for name, values in plain.items():
        np.testing.assert_array_equal(values, packed_one[name])
