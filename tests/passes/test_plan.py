"""Scales and zero-points: exact where it matters, above zero always, and the same again after JSON."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.base import Skip, run_passes
from passes.freeze_weights import FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.placement import place
from passes.plan import INTEGER_LIMITS, SMALLEST_SCALE, QuantParams, QuantPlan, decide
from passes.targets import ORT_ARM, ORT_CPU, ORT_CPU_AVX2, QNN, TARGETS, TENSORRT
from tests.passes.conftest import canonical, model_of, run, session

RNG = np.random.default_rng(3)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def plan_of(model, target, bits=8, **ranges):
    graph = canonical(model)
    return decide(graph, dict.fromkeys(place(graph, target).tensors, (-1.0, 1.0)) | ranges, target, bits)


CONV = "g (float[N,16,4,4] x) => (float[N,16,4,4] y) { y = Conv (x, w, b) }"


def conv(w=None, b=None):
    return model_of(CONV, w=weights(16, 16, 1, 1) if w is None else w, b=weights(16) if b is None else b)


def real(params, code):
    return (code - params.zero_point[0]) * params.scale[0]


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (0.0, 6.0), (2.0, 6.0), (-7.0, -1.0), (-1e-3, 1e4), (0.0, 0.0)])
def test_the_codes_of_an_activation_cover_its_range_and_zero_exactly(low, high):
    params = plan_of(conv(), ORT_CPU, x=(low, high)).tensors["x"]
    assert (params.dtype, params.bits, params.axis) == ("uint8", 8, None)
    step = params.scale[0]
    assert step > 0
    assert 0 <= params.zero_point[0] <= 255  # so that 0 itself has a code
    assert real(params, 0) <= min(low, 0) + step / 2 + 1e-9
    assert real(params, 255) >= max(high, 0) - step / 2 - 1e-9
    assert step <= max((max(high, 0) - min(low, 0)) / 255, SMALLEST_SCALE) * 1.0001  # and no coarser than that


def test_after_relu_the_zero_point_is_the_smallest_code():
    assert plan_of(conv(), ORT_CPU, x=(0.0, 6.0)).tensors["x"].zero_point == (0,)
    assert plan_of(conv(), ORT_CPU, x=(1.0, 6.0)).tensors["x"].zero_point == (0,)
    assert plan_of(conv(), ORT_CPU, x=(-6.0, 0.0)).tensors["x"].zero_point == (255,)


def test_on_arm_the_same_codes_are_signed():
    for low, high in [(0.0, 6.0), (-3.0, 5.0), (-6.0, 0.0)]:
        there, here = (plan_of(conv(), target, x=(low, high)).tensors["x"] for target in (ORT_ARM, ORT_CPU))
        assert (there.dtype, there.scale, there.zero_point[0] + 128) == ("int8", here.scale, here.zero_point[0])
    assert plan_of(conv(), ORT_ARM, x=(0.0, 6.0)).tensors["x"].zero_point == (-128,)


@pytest.mark.parametrize(("low", "high", "largest"), [(-3.0, 5.0, 5.0), (-8.0, 5.0, 8.0), (0.0, 2.54, 2.54)])
def test_symmetric_activations_have_zero_in_the_middle(low, high, largest):
    params = plan_of(conv(), TENSORRT, x=(low, high)).tensors["x"]
    assert (params.dtype, params.zero_point) == ("int8", (0,))
    assert params.scale[0] * 127 == pytest.approx(largest)


GOLDEN = {  # target, bits, range: type, step, zero-point, codes
    ("ort-cpu", 4, (0.0, 6.0)): ("uint8", 6 / 15, 0, (0, 15)),
    ("ort-cpu", 4, (-3.0, 5.0)): ("uint8", 8 / 15, 6, (0, 15)),
    ("ort-cpu", 2, (-6.0, 0.0)): ("uint8", 6 / 3, 3, (0, 3)),
    ("ort-cpu", 7, (0.0, 6.0)): ("uint8", 6 / 127, 0, (0, 127)),
    ("ort-cpu", 8, (0.0, 6.0)): ("uint8", 6 / 255, 0, None),
    ("ort-arm", 4, (0.0, 6.0)): ("int8", 6 / 15, -8, (-8, 7)),
    ("ort-arm", 4, (-3.0, 5.0)): ("int8", 8 / 15, -2, (-8, 7)),
    ("tensorrt", 4, (0.0, 6.0)): ("int8", 6 / 15, 0, (0, 15)),  # all codes above 0, where nothing is below
    ("tensorrt", 7, (0.0, 6.0)): ("int8", 6 / 127, 0, (0, 127)),
    ("tensorrt", 4, (-3.0, 5.0)): ("int8", 5 / 7, 0, (-8, 7)),
    ("tensorrt", 4, (-8.0, 5.0)): ("int8", 8 / 8, 0, (-8, 7)),
    ("tensorrt", 2, (-1.0, 0.4)): ("int8", 1 / 2, 0, (-2, 1)),
    ("tensorrt", 2, (-1.0, 0.0)): ("int8", 1 / 2, 0, (-2, 1)),
    ("tensorrt", 8, (-8.0, 5.0)): ("int8", 8 / 127, 0, None),
    ("qnn", 16, (-3.0, 5.0)): ("uint16", 8 / 65535, 24576, None),
}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_codes_of_activations_of_any_number_of_bits(case):
    (target, bits, (low, high)), (dtype, step, zero, codes) = case, GOLDEN[case]
    graph = canonical(conv())
    ranges = dict.fromkeys(place(graph, TARGETS[target]).tensors, (low, high))
    params = decide(graph, ranges, TARGETS[target], act_bits=bits).tensors["x"]
    assert (params.dtype, params.bits, params.zero_point, params.codes) == (dtype, bits, (zero,), codes)
    assert params.scale == (pytest.approx(step, rel=1e-6),)
    least, most = codes or INTEGER_LIMITS[dtype]
    assert real(params, least) <= low + step / 2 * 1.001
    assert real(params, most) >= high - step / 2 * 1.001


def test_each_activation_may_have_bits_of_its_own():
    graph = canonical(model_of(TWO, w=weights(16, 16, 1, 1), v=weights(16, 16, 1, 1)))
    ranges = dict.fromkeys(place(graph, ORT_CPU).tensors, (0.0, 1.0))
    tensors = decide(graph, ranges, ORT_CPU, act_bits={"a": 3, "elsewhere": 2}).tensors
    assert {name: tensors[name].bits for name in ranges} == {"x": 8, "a": 3, "y": 8}
    assert tensors["w"].bits == 8


def steps(w, low, high):
    """The scale of each channel at which none of its weights is beyond the codes, and one at the last of them."""
    return np.maximum(w.max((1, 2, 3)) / high, w.min((1, 2, 3)) / low)


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -127, 127), (6, -32, 31), (4, -8, 7), (2, -2, 1)])
def test_weights_are_symmetric_with_the_largest_of_each_channel_at_the_last_code(bits, low, high):
    w = weights(16, 16, 1, 1)
    params = plan_of(conv(w, np.zeros(16, np.float32)), TENSORRT, bits).tensors["w"]
    assert (params.dtype, params.bits, params.axis, params.zero_point) == ("int8", bits, 0, (0,) * 16)
    np.testing.assert_allclose(params.scale, steps(w, low, high), rtol=1e-6)


TWO = "g (float[N,16,4,4] x) => (float[N,16,4,4] y) { a = Conv (x, w) y = Conv (a, v) }"


def test_each_weight_may_have_bits_of_its_own():
    model = model_of(TWO, w=weights(16, 16, 1, 1), v=weights(16, 16, 1, 1))
    tensors = plan_of(model, ORT_CPU, {"w": 3, "elsewhere": 2}).tensors
    assert (tensors["w"].bits, tensors["v"].bits) == (3, 8)  # those that are not named have 8
    assert (tensors["x"].bits, tensors["a"].bits) == (8, 8)


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -64, 63), (7, -64, 63), (4, -8, 7)])
def test_no_weight_has_more_bits_than_the_target_can_add_up(bits, low, high):
    w = weights(16, 16, 1, 1)
    params = plan_of(conv(w, np.zeros(16, np.float32)), ORT_CPU_AVX2, bits).tensors["w"]
    assert params.bits == min(bits, 7)
    np.testing.assert_allclose(params.scale, steps(w, low, high), rtol=1e-6)


def test_matrices_have_a_scale_for_each_column_or_row_and_transposed_convolutions_one():
    w = weights(16, 24)
    for op, axis, largest in [("MatMul", 1, np.abs(w).max(0)), ("Gemm", 1, np.abs(w).max(0)),
                              ("Gemm <transB = 1>", 0, np.abs(w).max(1))]:  # fmt: skip
        model = model_of(f"g (float[N,{w.shape[1 - axis]}] x) => (float[A,B] y) {{ y = {op} (x, w) }}", w=w)
        params = plan_of(model, TENSORRT).tensors["w"]
        assert params.axis == axis
        np.testing.assert_allclose(params.scale, largest / 127, rtol=1e-6)
    w = weights(16, 16, 2, 2)
    params = plan_of(
        model_of("g (float[N,16,4,4] x) => (float[A,B,C,D] y) { y = ConvTranspose (x, w) }", w=w), TENSORRT
    )
    assert params.tensors["w"].axis is None
    assert params.tensors["w"].scale == pytest.approx([np.abs(w).max() / 127])


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_scales_are_above_zero_even_for_channels_of_zeros(target):
    w = weights(16, 16, 1, 1)
    w[3] = 0
    for each in (w, 0 * w):
        params = plan_of(conv(each), target, x=(0.0, 0.0)).tensors
        for entry in params.values():
            assert np.float32(entry.scale).min() > 0
            assert np.isfinite(entry.scale).all()


def test_tensors_that_share_a_scale_have_the_union_of_their_ranges():
    model = model_of(
        """g (float[2,16,4,4] x) => (float[2,8] y) {
            a = Conv (x, u) p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a) q = Flatten (p) y = MatMul (q, v)
        }""",
        u=weights(16, 16, 1, 1), v=weights(64, 8),
    )  # fmt: skip
    plan = plan_of(model, ORT_CPU, a=(-3.0, 1.0), p=(-1.0, 2.0), q=(-1.0, 1.5))
    shared = {(plan.tensors[name].scale, plan.tensors[name].zero_point) for name in "apq"}
    assert shared == {((float(np.float32(5 / 255)),), (153,))}
    assert plan.tensors["x"].scale != plan.tensors["a"].scale


def test_a_concat_takes_what_its_quantized_inputs_need():
    model = model_of(
        """g (float[N,16,8,8] x) => (float[A,B,C,D] y) {
            a = Conv (x, u) b = Conv (a, w) c = Concat <axis = 1> (a, b) y = Conv (c, v)
        }""",
        u=weights(16, 16, 1, 1), w=weights(16, 16, 1, 1), v=weights(16, 32, 1, 1),
    )  # fmt: skip
    plan = plan_of(model, TENSORRT, a=(-9.0, 1.0), c=(-2.0, 2.0))
    assert plan.tensors["a"].scale == plan.tensors["c"].scale == (float(np.float32(9 / 127)),)
    assert "b" not in plan.tensors


def test_constants_among_the_activations_are_their_own_range():
    model = model_of("g (float[1,4] x) => (float[1,4] y) { y = Add (x, k) }", k=np.float32([0.5, 3, 1, -1]))
    graph = canonical(model)
    wide = dict.fromkeys("xky", (-9.0, 9.0))
    tensors = decide(graph, wide, QNN).tensors
    assert tensors["k"].scale == (float(np.float32(4 / 255)),)
    assert tensors["k"].zero_point == (64,)
    assert tensors["k"].axis is None
    assert tensors["x"].scale == (float(np.float32(18 / 255)),)


def test_an_empty_constant_is_no_obstacle():
    model = model_of(
        "g (float[1,4] x) => (float[1,4] y) { y = Concat <axis = 1> (x, k) }", k=np.zeros((1, 0), np.float32)
    )
    assert plan_of(model, QNN).tensors["k"].scale == (pytest.approx(SMALLEST_SCALE),)


def test_a_placement_that_was_made_before_is_followed():
    graph = canonical(conv())
    placed = place(graph, ORT_CPU, keep_float={"Conv_y": "asked"})
    plan = decide(graph, {}, ORT_CPU, 8, placed)
    assert (plan.tensors, plan.readers) == ({}, {})
    assert plan.skips == (Skip("Conv_y", "placement", "asked"),)


def test_an_activation_without_a_range_is_an_error():
    graph = canonical(conv())
    with pytest.raises(KeyError, match="x"):
        decide(graph, {"y": (0.0, 1.0)}, ORT_CPU)


def test_a_tiny_channel_with_a_large_bias_is_right_in_the_fused_kernel(tmp_path):
    w, b = weights(16, 16, 1, 1), weights(16)
    w[2], b[2] = 1e-9 * w[2], 7.5  # 7.5 / (1 / 255 * 1e-9 / 127) is far beyond 2^31
    w[5], b[5] = 0, -6.0
    model = conv(w, b)
    x = RNG.uniform(0, 1, (2, 16, 4, 4)).astype(np.float32)
    expected = run(model, x)[0]
    low, high = float(expected.min()), float(expected.max())
    plan = plan_of(model, ORT_CPU, x=(0.0, 1.0), y=(low, high))
    scale = np.array(plan.tensors["w"].scale) * plan.tensors["x"].scale[0]
    assert np.abs(b / scale).max() <= 2**29 * 1.001
    graph = canonical(model)
    run_passes(graph, [InsertQDQ(plan), FreezeWeights()])
    fused = session(gs.export_onnx(graph), tmp_path / "fused.onnx").run(None, {"x": x})[0]
    assert Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)["QLinearConv"] == 1
    np.testing.assert_allclose(fused, expected, atol=0.03 * (high - low))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_floor_holds_wherever_a_layer_reads_integers(target):
    w, b = 1e-6 * weights(16, 16, 1, 1), np.full(16, 7.5, np.float32)
    scale = plan_of(conv(w, b), target).tensors["w"].scale
    if target.weights_only:
        assert max(scale) <= np.abs(w).max() / 127 * 1.001
    else:
        assert min(scale) > np.abs(w).max() / 127 * 10


@pytest.mark.parametrize("rows", [(3, 8), (3, 1)])
def test_a_gemm_may_have_a_bias_for_every_row(rows):
    model = model_of("g (float[3,16] x) => (float[3,8] y) { y = Gemm (x, w, b) }", w=weights(16, 8), b=weights(*rows))
    assert len(plan_of(model, ORT_CPU).tensors["w"].scale) == 8


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_plan_comes_back_from_json_equal(target):
    model = model_of(
        """g (float[N,16,8,8] x) => (float[A,B,C,D] y) {
            a = Conv (x, w, b) k = Conv (a, a) m = Relu (k) t = ConvTranspose (m, w) y = Sigmoid (t)
        }""",
        w=weights(16, 16, 1, 1), b=weights(16),
    )  # fmt: skip
    graph = canonical(model)
    ranges = dict.fromkeys(place(graph, target).tensors, (-1.0, 1.0))
    plan = decide(graph, ranges, target, act_bits={"x": 5})
    assert plan.skips
    back = QuantPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert back == plan
    assert hash(back.skips) == hash(plan.skips)  # tuples again, not lists
    assert set(plan.readers) <= set(plan.tensors)
    assert set(plan.tensors) - set(plan.readers) == set(place(canonical(model), target).weights)
    for params in plan.tensors.values():
        low, high = INTEGER_LIMITS[params.dtype]
        assert all(low <= zero <= high for zero in params.zero_point)
        assert params.why


def test_an_unknown_field_in_json_is_an_error():
    params = QuantParams("int8", 8, (1.0,), (0,), None, "why")
    data = QuantPlan("tensorrt", {"x": params}, {"x": ("n",)}, (Skip("n", "r", "why"),)).to_json()
    data["tensors"]["x"]["blocks"] = 16
    with pytest.raises(TypeError, match="blocks"):
        QuantPlan.from_json(data)
