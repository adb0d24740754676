"""What else decides a placement: targets of another kind, ranges once they are known, and the wishes of the user."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.base import run_passes
from passes.freeze_weights import FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.placement import FAR_APART, place
from passes.plan import decide
from passes.targets import OPENVINO, ORT_ARM, ORT_CPU, ORT_CPU_AVX2, ORT_CUDA, QNN, TARGETS, TENSORRT
from tests.passes.conftest import kernels
from tests.passes.placements import between, check, graph_of, reads, touches, writes

EVERY = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
SQUARE = (16, 16, 1, 1)
CHAIN = "g (float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Conv (x, u) r = Relu (a) y = Conv (r, v) }"
RESIDUAL = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
    a = Conv (x, u) r = Relu (a) b = Conv (r, w) s = Add (b, r) t = Relu (s) y = Conv (t, v)
}"""
CLASSIFIER = """g (float[N,16,8,8] x) => (float[N,10] y) {
    a = Conv (x, u) r = Relu (a) p = GlobalAveragePool (r) f = Flatten (p) g = Gemm <transB = 1> (f, v) y = Softmax (g)
}"""
CONCAT = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
    a = Conv (x, u) b = Conv (x, w) c = Concat <axis = 1> (a, b) y = Conv (c, v)
}"""
ATTENTION = """g (float[N,4,16] x) => (float[N,4,16] y) {
    q = MatMul (x, wq) k = MatMul (x, wk) t = Transpose <perm = [0,2,1]> (k) s = MatMul (q, t)
    m = Add (s, mask) p = Softmax (m) y = MatMul (p, q)
}"""
GRAPHS = {
    "chain": (CHAIN, {"u": SQUARE, "v": SQUARE}),
    "residual": (RESIDUAL, {"u": SQUARE, "v": SQUARE, "w": SQUARE}),
    "classifier": (CLASSIFIER, {"u": SQUARE, "v": (10, 16)}),
    "concat": (CONCAT, {"u": SQUARE, "w": SQUARE, "v": (16, 32, 1, 1)}),
    "attention": (ATTENTION, {"wq": (16, 16), "wk": (16, 16), "mask": (4, 4)}),
}


def example(name):
    text, shapes = GRAPHS[name]
    return graph_of(text, **shapes)


# -- targets of another kind


@pytest.mark.parametrize("name", GRAPHS)
def test_all_cpu_providers_of_onnx_runtime_have_the_same_placement(name):
    graph = example(name)
    assert place(graph, ORT_CPU) == place(graph, ORT_CPU_AVX2) == place(graph, ORT_ARM)


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_only_means_no_activation(name):
    graph = example(name)
    placed = place(graph, ORT_CUDA)
    assert (placed.tensors, placed.readers, placed.groups, placed.integer) == ({}, {}, [], set())
    assert placed.weights == place(graph, ORT_CPU).weights
    assert placed.skips == place(graph, ORT_CPU).skips


EARLY = "what follows carries it, in integers, to a layer"


def test_openvino_quantizes_early_and_of_an_add_the_skip_branch():
    check(example("chain"), OPENVINO, {"x": reads("Conv_a"), "r": reads("Conv_y")}, {"x": "Conv_a", "r": "Conv_y"},
          weights={"u": ("Conv_a", 0), "v": ("Conv_y", 0)})  # fmt: skip
    check(
        example("residual"), OPENVINO,
        {"x": reads("Conv_a"), "r": reads("Conv_b"), "t": reads("Conv_y")},
        {"x": "Conv_a", "r": "Conv_b Add_s", "t": "Conv_y"},
    )  # fmt: skip
    check(
        example("classifier"), OPENVINO,
        {"x": reads("Conv_a"), "r": EARLY, "p": between("GlobalAveragePool_p"), "f": reads("Gemm_g")},
        {"x": "Conv_a", "r": "GlobalAveragePool_p", "p": "Flatten_f", "f": "Gemm_g"},
        groups=[{"p", "f"}],
    )  # fmt: skip
    check(example("concat"), OPENVINO, {"x": reads("Conv_a"), "a": EARLY, "b": EARLY, "c": reads("Conv_y")},
          {"x": "Conv_a Conv_b", "a": "Concat_c", "b": "Concat_c", "c": "Conv_y"},
          groups=[{"a", "b", "c"}])  # fmt: skip


def test_qnn_quantizes_whatever_an_operator_of_its_table_touches():
    check(example("chain"), QNN, {"x": reads("Conv_a"), "r": reads("Conv_y"), "y": touches("Conv_y")},
          {"x": "Conv_a", "r": "Conv_y", "y": ""})  # fmt: skip
    check(
        example("residual"), QNN,
        {"x": reads("Conv_a"), "r": reads("Conv_b"), "b": reads("Add_s"), "t": reads("Conv_y"),
         "y": touches("Conv_y")},
        {"x": "Conv_a", "r": "Conv_b Add_s", "b": "Add_s", "t": "Conv_y", "y": ""},
    )  # fmt: skip
    check(
        example("classifier"), QNN,
        {"x": reads("Conv_a"), "r": reads("GlobalAveragePool_p"), "p": touches("GlobalAveragePool_p"),
         "f": reads("Gemm_g"), "g": reads("Softmax_y"), "y": touches("Softmax_y")},
        {"x": "Conv_a", "r": "GlobalAveragePool_p", "p": "Flatten_f", "f": "Gemm_g", "g": "Softmax_y", "y": ""},
        groups=[{"p", "f"}],
    )  # fmt: skip
    check(
        example("concat"), QNN,
        {"x": reads("Conv_a"), "a": reads("Concat_c"), "b": reads("Concat_c"), "c": reads("Conv_y"),
         "y": touches("Conv_y")},
        {"x": "Conv_a Conv_b", "a": "Concat_c", "b": "Concat_c", "c": "Conv_y", "y": ""},
    )  # fmt: skip


def test_qnn_quantizes_constants_that_are_data_and_no_integers_that_are_not():
    graph = graph_of(
        """g (float[1,16,8,8] x) => (float[1,16,3,8] y, int64[1,16,4,4] i) {
            m, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) s = Sub (k, m) d = Div (s, e)
            r = Reshape (d, shape) t = Gather <axis = 2> (r, three) u = Exp (t) y = Elu (u)
        }""",
        k=(1,), e=(1,), shape=np.array([1, 16, 2, 8]), three=np.array([0, 1, 0]),
    )  # fmt: skip
    # nothing is said of Exp, but what it reads and writes is touched from both sides
    check(
        graph, QNN,
        {"x": reads("MaxPool_m"), "m": touches("MaxPool_m"), "k": reads("Sub_s"), "s": touches("Sub_s"),
         "e": reads("Div_d"), "d": touches("Div_d"), "r": touches("Reshape_r"), "t": touches("Gather_t"),
         "u": reads("Elu_y"), "y": touches("Elu_y")},
        {"x": "MaxPool_m", "m": "Sub_s", "k": "Sub_s", "s": "Div_d", "e": "Div_d", "d": "Reshape_r", "r": "Gather_t",
         "t": "Exp_u", "u": "Elu_y", "y": ""},
        groups=[{"x", "m"}, {"d", "r", "t"}],
    )  # fmt: skip


def test_a_mask_of_infinities_stays_in_float():
    mask = np.zeros((4, 4), np.float32)
    mask[0, 3] = -np.inf
    placed = place(graph_of(ATTENTION, wq=(16, 16), wk=(16, 16), mask=mask), QNN)
    assert ("Add_m", "a constant that it reads holds NaN or infinity") in [(s.node, s.reason) for s in placed.skips]
    assert "mask" not in placed.tensors
    assert "Add_m" not in placed.integer
    assert placed.readers["m"] == {"Softmax_p"}  # whose kernel wants integers all the same


# -- ranges

NEAR = {"x": (-1.0, 1.0), "a": (-20.0, 3.0), "b": (0.0, 1.0), "c": (-20.0, 3.0), "y": (-1.0, 1.0)}
FAR = NEAR | {"a": (0.0, 640.0), "c": (0.0, 640.0)}
REASON = ("Concat_c", "it joins ranges far apart: b up to 1, a up to 640")


def test_a_concat_of_ranges_far_apart_has_no_common_scale_on_tensorrt():
    graph = example("concat")
    tensors = {"x": reads("Conv_a"), "c": reads("Conv_y")}
    readers = {"x": "Conv_a Conv_b", "c": "Conv_y"}
    check(graph, TENSORRT, tensors, readers, groups=[{"a", "b", "c"}])
    check(graph, TENSORRT, tensors, readers, groups=[{"a", "b", "c"}], ranges=NEAR)
    check(graph, TENSORRT, tensors, readers, skips=[REASON], ranges=FAR)


@pytest.mark.parametrize("target", [ORT_CPU, OPENVINO, TENSORRT], ids=lambda target: target.name)
def test_it_is_told_once_with_both_ends_named(target):
    placed = place(example("concat"), target, FAR)
    assert [(skip.node, skip.reason) for skip in placed.skips] == [REASON]
    assert "Concat_c" not in placed.integer


def test_where_all_else_is_in_integers_it_stays_in_float_too():
    placed = place(example("concat"), QNN, FAR)
    assert [(skip.node, skip.reason) for skip in placed.skips] == [REASON]
    assert "Concat_c" not in placed.integer


@pytest.mark.parametrize(
    ("small", "large", "apart"),
    [((0.0, 1.0), (0.0, FAR_APART * 1.0), True), ((0.0, 1.0), (0.0, FAR_APART * 0.99), False),
     ((-1.0, 0.5), (-FAR_APART * 1.0, 0.0), True), ((0.0, 0.0), (0.0, 640.0), False)],
)  # fmt: skip
def test_how_far_is_far(small, large, apart):
    for a, b in ((small, large), (large, small)):
        placed = place(example("concat"), TENSORRT, NEAR | {"a": a, "b": b})
        assert bool(placed.skips) is apart
        assert bool(placed.groups) is not apart


def test_inputs_of_unknown_range_do_not_keep_a_concat_in_float():
    assert not place(example("concat"), TENSORRT, {"a": (0.0, 640.0)}).skips


@EVERY
@pytest.mark.parametrize("name", GRAPHS)
def test_ranges_never_place_what_was_not_placed_without_them(name, target):
    graph, rng = example(name), np.random.default_rng(0)
    before = place(graph, target)
    for _ in range(5):
        ranges = {tensor: (0.0, float(10 ** rng.uniform(-3, 3))) for tensor in graph.tensors()}
        after = place(graph, target, ranges)
        assert after.tensors.keys() <= before.tensors.keys()
        assert after.weights == before.weights


# -- wishes


@EVERY
@pytest.mark.parametrize("name", GRAPHS)
def test_any_node_can_be_kept_in_float(name, target):
    graph = example(name)
    known = {tensor for each in TARGETS.values() for tensor in place(graph, each).tensors}
    for node in graph.nodes:
        placed = place(graph, target, keep_float={node.name: "I said so"})
        assert [skip.reason for skip in placed.skips if skip.node == node.name] == ["I said so"]
        assert node.name not in placed.integer
        assert node.name not in {site.layer for site in placed.weights.values()}
        assert placed.tensors.keys() <= known  # ranges are measured for what some target may want


def test_a_layer_kept_in_float_reads_float_where_nobody_writes_integers():
    kept = {"keep_float": {"Conv_y": "asked"}}
    skips = [("Conv_y", "asked")]
    check(example("chain"), TENSORRT, {"x": reads("Conv_a")}, {"x": "Conv_a"}, skips=skips, **kept)
    check(example("chain"), OPENVINO, {"x": reads("Conv_a")}, {"x": "Conv_a"}, skips=skips, **kept)
    first = {"keep_float": {"Conv_a": "asked"}}
    check(example("chain"), ORT_CPU, {"r": reads("Conv_y"), "y": writes("Conv_y")}, {"r": "Conv_y", "y": ""},
          skips=[("Conv_a", "asked")], **first)  # fmt: skip


def test_what_a_kernel_writes_in_integers_is_read_so_by_nodes_kept_in_float():
    # else the layer before them would have no integer kernel: it needs a quantizer as its only reader
    check(example("chain"), ORT_CPU, {"x": reads("Conv_a"), "r": writes("Conv_a")}, {"x": "Conv_a", "r": "Conv_y"},
          skips=[("Conv_y", "asked")], keep_float={"Conv_y": "asked"})  # fmt: skip
    check(
        graph_of("""g (float[N,16,8,8] x) => (float[A,B,C,D] y, float[A,B,C,D] z) {
            a = Conv (x, u) p = MaxPool <kernel_shape = [2,2]> (a) y = Conv (p, v) z = LeakyRelu (p)
        }""", u=SQUARE, v=SQUARE), ORT_CPU,
        {"x": reads("Conv_a"), "a": writes("Conv_a"), "p": reads("Conv_y"), "y": writes("Conv_y")},
        {"x": "Conv_a", "a": "MaxPool_p", "p": "Conv_y LeakyRelu_z", "y": ""},
        groups=[{"a", "p"}], skips=[("LeakyRelu_z", "asked")], keep_float={"LeakyRelu_z": "asked"},
    )  # fmt: skip


def test_the_layer_before_one_kept_in_float_keeps_its_integer_kernel(tmp_path):
    graph = example("chain")
    placed = place(graph, ORT_CPU, keep_float={"Conv_y": "asked"})
    plan = decide(graph, dict.fromkeys(placed.tensors, (0.0, 4.0)), ORT_CPU, 8, placed)
    run_passes(graph, [InsertQDQ(plan), FreezeWeights()])
    found = kernels(gs.export_onnx(graph), tmp_path)
    assert (found["QLinearConv"], found["Conv"] + found["FusedConv"]) == (1, 1)
