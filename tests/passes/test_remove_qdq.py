"""Without Q and DQ a model is the float one again, but for weights that have kept the values of their codes."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from passes.base import run_passes
from passes.freeze_weights import FreezeBiases, FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.pack_weights import PackWeights
from passes.placement import place
from passes.plan import decide
from passes.remove_qdq import RemoveQDQ
from passes.targets import ORT_CPU, QNN, TARGETS
from tests.passes.conftest import canonical, interface, model_of, run

RNG = np.random.default_rng(9)
EVERY = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def codes(low, high, shape, dtype=np.int8):
    return RNG.integers(low, high, shape).astype(dtype)


def network():
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,10] z) {
        a = Conv (x, u, ub) r = Relu (a) b = Conv (r, w) s = Add (b, r) y = Conv (s, v) d = ConvTranspose (s, k)
        p = GlobalAveragePool (d) f = Flatten (p) z = Gemm <transB = 1> (f, m, mb)
    }"""
    squares = {name: weights(16, 16, 1, 1) for name in "uwvk"}
    return model_of(text, **squares, m=weights(10, 16), ub=weights(16), mb=weights(10))


def quantized(model, target, bits=8, *more, act_bits=8):
    graph = canonical(model)
    ranges = dict.fromkeys(place(graph, target).tensors, (-4.0, 4.0))
    plan = decide(graph, ranges, target, bits, act_bits=act_bits)
    run_passes(graph, [InsertQDQ(plan), FreezeBiases(target.int32_bias_written), FreezeWeights(), *more])
    return gs.export_onnx(graph)


def removed(model):
    """The float model, how many places were changed, and the nodes that were not."""
    graph = gs.import_onnx(model)
    result = run_passes(graph, [RemoveQDQ()])[0]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, result


def values_of(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def wiring(model):
    """Every node with what it reads and writes."""
    return {node.name: (node.op_type, list(node.input), list(node.output)) for node in model.graph.node}


def test_weights_and_activations_lose_their_pairs():
    model = model_of(
        """g (float[N,4] x) => (float[N,3] y) {
            xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z)
            w = DequantizeLinear <axis = 1> (wq, ws, wz) y = MatMul (xd, w)
        }""",
        s=np.float32(0.1), z=np.uint8(7), wq=codes(-9, 9, (4, 3)), ws=np.float32([1, 2, 3]), wz=np.int8([0, 1, 0]),
    )  # fmt: skip
    after, result = removed(model)
    assert [(node.op_type, list(node.input)) for node in after.graph.node] == [("MatMul", ["x", "w"])]
    assert (result.changed, result.skips) == (2, ())
    given, left = values_of(model), values_of(after)
    assert list(left) == ["w"]
    np.testing.assert_array_equal(left["w"], (given["wq"] - given["wz"].astype(np.float32)) * given["ws"])


@EVERY
def test_what_insert_qdq_did_is_undone(target):
    model = network()
    before = gs.export_onnx(canonical(model))
    after, result = removed(quantized(model, target))
    assert wiring(after) == wiring(before)
    assert interface(after) == interface(model)
    assert result.skips == ()
    for name, value in values_of(before).items():
        step = np.abs(value).max() / 63  # of the coarsest grid, that of a target with 7 bits and one scale
        assert 0 <= np.abs(values_of(after)[name] - value).max() <= step / 2 * 1.001


@EVERY
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantizing_again_on_the_same_grid_gives_the_same_codes(target, bits):
    first = quantized(network(), target, bits)
    again = quantized(removed(first)[0], target, bits)
    ours, theirs = values_of(again), values_of(first)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if value.dtype in (np.int8, np.uint8):
            np.testing.assert_array_equal(ours[name], value)
        else:
            np.testing.assert_allclose(ours[name], value, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_weights_are_read_through_their_cast(bits):
    model = network()
    plain, packed = (quantized(model, ORT_CPU, bits, *more) for more in ((), (PackWeights(ORT_CPU.packed_from),)))
    assert "Cast" in {node.op_type for node in packed.graph.node}
    ours, theirs = (values_of(removed(each)[0]) for each in (packed, plain))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


CONSTANTS = {  # attributes, codes, scales, zero-points
    "one scale": ("", codes(-128, 128, (4, 6)), np.float32(0.3), np.int8(5)),
    "rows": ("<axis = 0>", codes(-128, 128, (4, 6)), weights(4) ** 2, codes(-9, 9, 4)),
    "columns": ("<axis = 1>", codes(-128, 128, (4, 6)), weights(6) ** 2, codes(-9, 9, 6)),
    "the last": ("<axis = -1>", codes(-128, 128, (4, 6)), weights(6) ** 2, codes(-9, 9, 6)),
    "the default axis": ("", codes(-128, 128, (4, 6)), weights(6) ** 2, codes(-9, 9, 6)),
    "a list of one scale": ("<axis = 0>", codes(-128, 128, (4, 6)), np.float32([0.3]), np.int8([5])),
    "unsigned": ("<axis = 0>", codes(0, 256, (4, 6), np.uint8), weights(4) ** 2, codes(90, 140, 4, np.uint8)),
    "no zero-point": ("<axis = 0>", codes(0, 256, (4, 6), np.uint8), weights(4) ** 2, None),
    "biases": ("<axis = 0>", codes(-70000, 70000, 6, np.int32), weights(6) ** 2, np.zeros(6, np.int32)),
    "four bits": ("<axis = 0>", codes(-8, 8, (4, 6), ml_dtypes.int4), weights(4) ** 2, None),
    "blocks of rows": ("<axis = 0, block_size = 2>", codes(-8, 8, (4, 6)), weights(2, 6) ** 2, codes(-3, 3, (2, 6))),
    "blocks, the last not full": ("<axis = 1, block_size = 4>", codes(-8, 8, (4, 6)), weights(4, 2) ** 2, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants_have_the_values_that_the_runtime_gives_them(case):
    attributes, stored, scale, zero = CONSTANTS[case]
    given = {"q": stored, "s": scale} | ({"z": zero} if zero is not None else {})
    dims = ",".join(map(str, stored.shape))
    body = f"w = DequantizeLinear {attributes} ({', '.join(given)}) y = Add (x, w)"
    model = model_of(f"g (float[{dims}] x) => (float[{dims}] y) {{ {body} }}", 21, 10, **given)
    after, result = removed(model)
    assert result.changed == 1
    x = np.zeros(stored.shape, np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(model, x)[0])


def test_biases_in_int32_become_float():
    model = network()
    made = quantized(model, QNN)
    assert np.dtype(np.int32) in {value.dtype for value in values_of(made).values()}
    after = removed(made)[0]
    assert {value.dtype for value in values_of(after).values()} == {np.dtype(np.float32)}
    x = weights(2, 16, 8, 8)
    exact = [run(removed(quantized(model, replace(QNN, int32_bias_written=frozenset())))[0], x), run(after, x)]
    for one, other in zip(*exact, strict=True):  # which differ in their biases alone, by half a step of int32
        np.testing.assert_allclose(one, other, atol=1e-2)
        assert not np.array_equal(one, other)


PAIR = "{b}q = QuantizeLinear ({a}, s, z) {b} = DequantizeLinear ({b}q, s, z)"
STEP = {"s": np.float32(0.5), "z": np.int8(0)}


def pair(a, b):
    return PAIR.format(a=a, b=b)


def test_outputs_keep_their_names_and_the_tensors_before_them_take_them():
    model = model_of(f"g (float[N,4] x) => (float[N,4] y) {{ h = Exp (x) {pair('h', 'y')} }}", **STEP)
    after, _ = removed(model)
    assert [(node.op_type, list(node.output)) for node in after.graph.node] == [("Exp", ["y"])]
    assert interface(after) == interface(model)


def test_an_output_that_others_read_too():
    model = model_of(f"g (float[N,4] x) => (float[N,4] y, float[N,4] e) {{ h = Exp (x) {pair('h', 'y')} e = Abs (y) }}",
                     **STEP)  # fmt: skip
    after, _ = removed(model)
    assert [(node.op_type, list(node.input), list(node.output)) for node in after.graph.node] == [
        ("Exp", ["x"], ["y"]), ("Abs", ["y"], ["e"])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outputs", "body"),
    [("y", pair("x", "y")), ("h y", f"h = Abs (x) {pair('h', 'y')}"),
     ("y e", f"h = Abs (x) {pair('h', 'y')} {pair('h', 'e')}")],
    ids=["an input is the output", "both sides are outputs", "two outputs of one tensor"],
)  # fmt: skip
def test_tensors_that_must_keep_two_names_get_an_identity(outputs, body):
    listed = ", ".join(f"float[N,4] {name}" for name in outputs.split())
    model = model_of(f"g (float[N,4] x) => ({listed}) {{ {body} }}", **STEP)
    after, result = removed(model)
    assert interface(after) == interface(model)
    assert result.skips == ()
    assert {node.op_type for node in after.graph.node} <= {"Abs", "Identity"}
    x = weights(2, 4)
    for computed in run(after, x):
        np.testing.assert_array_equal(computed, np.abs(x) if "Abs" in body else x)


def test_a_tensor_that_is_quantized_twice_over_is_read_as_it_was():
    body = f"{pair('x', 'b')} {pair('b', 'c')} y = Abs (c)"
    after, result = removed(model_of(f"g (float[N,4] x) => (float[N,4] y) {{ {body} }}", **STEP))
    assert [(node.op_type, list(node.input)) for node in after.graph.node] == [("Abs", ["x"])]
    assert result.changed == 2


def test_only_some_readers_read_quantized():
    body = f"{pair('x', 'd')} a = Abs (x) b = Exp (d) y = Add (a, b)"
    after, _ = removed(model_of(f"g (float[N,4] x) => (float[N,4] y) {{ {body} }}", **STEP))
    assert {node.op_type: list(node.input) for node in after.graph.node}["Exp"] == ["x"]


LEFT = {
    "an operator on integers": """q = QuantizeLinear (x, s, z) m = MaxPool <kernel_shape = [2,2]> (q)
                                  y = DequantizeLinear (m, s, z)""",
    "an input in integers": "y = DequantizeLinear (i, s, z)",
    "a scale that is computed": "t = Abs (s) y = DequantizeLinear (k, t, z)",
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_no_pair_stays_and_is_told(case):
    text = f"g (float[1,1,4,4] x, int8[1,1,4,4] i) => (float[A,B,C,D] y) {{ {LEFT[case]} }}"
    model = model_of(text, k=codes(-9, 9, (1, 1, 4, 4)), **STEP)
    after, result = removed(model)
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in model.graph.node]
    assert result.changed == 0
    (skip,) = result.skips
    assert (skip.rule, skip.reason) == ("remove-qdq", "it reads integers that something else than a quantizer wrote")


@EVERY
def test_what_clipped_an_activation_of_few_bits_goes_too(target):
    model = network()
    before = wiring(gs.export_onnx(canonical(model)))
    first = quantized(model, target, act_bits=4)
    assert target.weights_only or any(node.op_type == "Clip" for node in first.graph.node)
    after, result = removed(first)
    assert interface(after) == interface(model)
    assert result.skips == ()
    assert wiring(after) == before
    again = quantized(after, target, act_bits=4)
    assert wiring(again) == wiring(first)
    for name, value in values_of(first).items():
        np.testing.assert_allclose(values_of(again)[name].astype(float), value.astype(float), rtol=1e-6)


def test_a_clip_of_the_model_keeps_the_bounds_of_the_quantizer():
    text = "g (float[N,4] x) => (float[N,4] y) { r = Clip (x, zero, six) y = MatMul (r, w) }"
    model = model_of(text, zero=np.float32(0), six=np.float32(6), w=weights(4, 4))
    after, _ = removed(quantized(model, ORT_CPU, act_bits=4))
    assert wiring(after)["Clip_r"] == ("Clip", ["x", "r_clip_low", "r_clip_high"], ["r"])
    assert float(values_of(after)["r_clip_high"]) == pytest.approx(7 * 8 / 15)  # 15 steps, 8 of them below 0
    again = quantized(after, ORT_CPU, act_bits=4)
    assert wiring(again)["Clip_r"] == wiring(after)["Clip_r"]
    assert wiring(removed(again)[0]) == wiring(after)


def test_a_clip_of_the_model_stays_whatever_it_is_called():
    for name, output in [("h_Clip", "c"), ("c", "h_clipped")]:
        text = f"[{name}] {output} = Clip (h, low, high) {pair(output, 'y')}"
        bounds = {"low": np.float32(1), "high": np.float32(9)}
        model = model_of(f"g (float[N,4] x) => (float[N,4] y) {{ h = Exp (x) {text} }}", **bounds, **STEP)
        assert [node.op_type for node in removed(model)[0].graph.node] == ["Exp", "Clip"]
