"""Golden placements: what is quantized, who reads it so, what shares a scale, and what stays in float and why."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.placement import place, weight_axis
from passes.targets import ORT_CPU, TENSORRT
from tests.passes.placements import between, check, graph_of, reads, writes

CHAIN = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Conv (x, u) r = Relu (a) y = Conv (r, v) }"""
SQUARE = (16, 16, 1, 1)


def test_conv_relu_chain():
    graph = graph_of(CHAIN, u=SQUARE, v=SQUARE)
    weights = {"u": ("Conv_a", 0), "v": ("Conv_y", 0)}
    check(graph, TENSORRT, {"x": reads("Conv_a"), "r": reads("Conv_y")}, {"x": "Conv_a", "r": "Conv_y"},
          weights=weights)  # fmt: skip
    # the quantizer of r stands in for Relu; the output of the model is written by a Conv, so it is quantized too
    check(graph, ORT_CPU, {"x": reads("Conv_a"), "r": writes("Conv_a"), "y": writes("Conv_y")},
          {"x": "Conv_a", "r": "Conv_y", "y": ""}, weights=weights)  # fmt: skip


def test_an_activation_that_is_read_before_relu_is_quantized_before_it():
    graph = graph_of(
        "g (float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Conv (x, u) r = Relu (a) e = Exp (a) y = Mul (r, e) }",
        u=SQUARE,
    )
    check(graph, ORT_CPU, {"x": reads("Conv_a"), "a": writes("Conv_a")}, {"x": "Conv_a", "a": "Relu_r Exp_e"})


def test_an_output_of_the_model_before_relu_is_quantized_where_it_is_written():
    graph = graph_of(
        "g (float[N,16,8,8] x) => (float[N,16,8,8] a, float[N,16,8,8] y) { a = Conv (x, u) y = Relu (a) }", u=SQUARE
    )
    check(graph, ORT_CPU, {"x": reads("Conv_a"), "a": writes("Conv_a")}, {"x": "Conv_a", "a": "Relu_y"})


def test_an_add_is_no_end_of_a_convolution_that_others_read_too():
    graph = graph_of(
        "g (float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Conv (x, u) s = Add (a, x) e = Exp (a) y = Mul (s, e) }",
        u=SQUARE,
    )
    check(graph, TENSORRT, {"x": reads("Conv_a")}, {"x": "Conv_a"})  # the Add reads float on both sides


def test_residual_add_quantizes_both_sides_on_ort_and_only_the_skip_branch_on_tensorrt():
    graph = graph_of(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
            a = Conv (x, u) r = Relu (a) b = Conv (r, w) s = Add (b, r) t = Relu (s) y = Conv (t, v)
        }""",
        u=SQUARE, w=SQUARE, v=SQUARE,
    )  # fmt: skip
    check(
        graph, TENSORRT,
        {"x": reads("Conv_a"), "r": reads("Conv_b"), "t": reads("Conv_y")},
        {"x": "Conv_a", "r": "Conv_b Add_s", "t": "Conv_y"},  # not b: the Add becomes the end of that Conv
    )  # fmt: skip
    check(
        graph, ORT_CPU,
        {"x": reads("Conv_a"), "r": writes("Conv_a"), "b": writes("Conv_b"), "t": reads("Conv_y"),
         "y": writes("Conv_y")},
        {"x": "Conv_a", "r": "Conv_b Add_s", "b": "Add_s", "t": "Conv_y", "y": ""},
    )  # fmt: skip


def test_of_two_convolutions_that_are_added_the_later_is_the_main_path():
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {{
        a = Conv (x, u) b = Conv (x, w) s = Add ({operands}) y = Conv (s, v)
    }}"""
    for operands in ("a, b", "b, a"):
        graph = graph_of(text.format(operands=operands), u=SQUARE, w=SQUARE, v=SQUARE)
        check(graph, TENSORRT, {"x": reads("Conv_a"), "a": reads("Add_s"), "s": reads("Conv_y")},
              {"x": "Conv_a Conv_b", "a": "Add_s", "s": "Conv_y"})  # fmt: skip


def test_concat_shares_one_scale_on_tensorrt_and_has_scales_of_its_own_on_ort():
    graph = graph_of(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
            a = Conv (x, u) r = Relu (a) b = Conv (r, w) c = Concat <axis = 1> (r, b) y = Conv (c, v)
        }""",
        u=SQUARE, w=SQUARE, v=(16, 32, 1, 1),
    )  # fmt: skip
    check(graph, TENSORRT, {"x": reads("Conv_a"), "r": reads("Conv_b"), "c": reads("Conv_y")},
          {"x": "Conv_a", "r": "Conv_b", "c": "Conv_y"}, groups=[{"r", "b", "c"}])  # fmt: skip
    check(
        graph, ORT_CPU,
        {"x": reads("Conv_a"), "r": writes("Conv_a"), "b": writes("Conv_b"), "c": reads("Conv_y"),
         "y": writes("Conv_y")},
        {"x": "Conv_a", "r": "Conv_b Concat_c", "b": "Concat_c", "c": "Conv_y", "y": ""},
    )  # fmt: skip


def test_a_concat_with_a_constant_stays_in_float():
    graph = graph_of(
        """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
            a = Conv (x, u) c = Concat <axis = 1> (a, k) y = Conv (c, v)
        }""",
        u=SQUARE, k=(1, 16, 8, 8), v=(16, 32, 1, 1),
    )  # fmt: skip
    check(graph, ORT_CPU,
          {"x": reads("Conv_a"), "a": writes("Conv_a"), "c": reads("Conv_y"), "y": writes("Conv_y")},
          {"x": "Conv_a", "a": "Concat_c", "c": "Conv_y", "y": ""})  # fmt: skip


def test_data_movers_between_integers_keep_the_scale():
    graph = graph_of(
        """g (float[2,16,8,8] x) => (float[2,8] y) {
            a = Conv (x, u) p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a) q = Reshape (p, s) y = Gemm (q, v)
        }""",
        u=SQUARE, s=np.array([2, 256]), v=(256, 8),
    )  # fmt: skip
    weights = {"u": ("Conv_a", 0), "v": ("Gemm_y", 1)}
    check(graph, TENSORRT, {"x": reads("Conv_a"), "q": reads("Gemm_y")}, {"x": "Conv_a", "q": "Gemm_y"},
          weights=weights)  # fmt: skip
    check(
        graph, ORT_CPU,
        {"x": reads("Conv_a"), "a": writes("Conv_a"), "p": between("MaxPool_p"), "q": reads("Gemm_y")},
        {"x": "Conv_a", "a": "MaxPool_p", "p": "Reshape_q", "q": "Gemm_y"},
        groups=[{"a", "p", "q"}], weights=weights,
    )  # fmt: skip


def test_data_movers_towards_float_stay_in_float():
    graph = graph_of(
        "g (float[2,16,4,4] x) => (float[2,256] y) { a = Conv (x, u) q = Flatten (a) y = Softmax (q) }", u=SQUARE
    )
    check(graph, ORT_CPU, {"x": reads("Conv_a"), "a": writes("Conv_a")}, {"x": "Conv_a", "a": "Flatten_q"})


def test_silu_runs_in_integers_on_ort():
    graph = graph_of(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
            a = Conv (x, u) b = Sigmoid (a) m = Mul (a, b) y = Conv (m, v)
        }""",
        u=SQUARE, v=SQUARE,
    )  # fmt: skip
    check(
        graph, ORT_CPU,
        {"x": reads("Conv_a"), "a": writes("Conv_a"), "b": reads("Mul_m"), "m": reads("Conv_y"),
         "y": writes("Conv_y")},
        {"x": "Conv_a", "a": "Sigmoid_b Mul_m", "b": "Mul_m", "m": "Conv_y", "y": ""},
    )  # fmt: skip
    check(graph, TENSORRT, {"x": reads("Conv_a"), "m": reads("Conv_y")}, {"x": "Conv_a", "m": "Conv_y"})


def test_attention_stays_in_float_but_for_its_projections():
    graph = graph_of(
        """g (float[N,4,16] x) => (float[N,4,16] y) {
            q = MatMul (x, wq) k = MatMul (x, wk) t = Transpose <perm = [0,2,1]> (k) s = MatMul (q, t)
            p = Softmax (s) y = MatMul (p, q)
        }""",
        wq=(16, 16), wk=(16, 16),
    )  # fmt: skip
    computed = "its second operand is computed, not a constant weight"
    for target in (TENSORRT, ORT_CPU):
        check(graph, target, {"x": reads("MatMul_q")}, {"x": "MatMul_q MatMul_k"},
              skips=[("MatMul_s", computed), ("MatMul_y", computed)],
              weights={"wq": ("MatMul_q", 1), "wk": ("MatMul_k", 1)})  # fmt: skip


def test_pooled_classifier():
    graph = graph_of(
        """g (float[N,16,8,8] x) => (float[N,10] y) {
            a = Conv (x, u) r = Relu (a) p = GlobalAveragePool (r) f = Flatten (p) y = Gemm <transB = 1> (f, v, c)
        }""",
        u=SQUARE, v=(10, 16), c=(10,),
    )  # fmt: skip
    check(graph, TENSORRT, {"x": reads("Conv_a"), "f": reads("Gemm_y")}, {"x": "Conv_a", "f": "Gemm_y"})
    check(
        graph, ORT_CPU,
        {"x": reads("Conv_a"), "r": writes("Conv_a"), "p": between("GlobalAveragePool_p"), "f": reads("Gemm_y")},
        {"x": "Conv_a", "r": "GlobalAveragePool_p", "p": "Flatten_f", "f": "Gemm_y"},  # the scores stay in float
        groups=[{"p", "f"}], weights={"u": ("Conv_a", 0), "v": ("Gemm_y", 0)},
    )  # fmt: skip


def test_the_residual_stream_between_layer_normalizations_stays_in_float():
    graph = graph_of(
        """g (float[N,4,16] x) => (float[N,4,16] y) {
            n = LayerNormalization (x, one, zero) h = MatMul (n, w) b = Add (h, c) r = Add (x, b)
            m = LayerNormalization (r, one, zero) k = MatMul (m, v) e = Add (c, k) y = Add (r, e)
        }""",
        one=(16,), zero=(16,), w=(16, 16), v=(16, 16), c=(16,),
    )  # fmt: skip
    for target in (TENSORRT, ORT_CPU):
        check(graph, target, {"n": reads("MatMul_h"), "m": reads("MatMul_k")}, {"n": "MatMul_h", "m": "MatMul_k"})


def test_placing_only_looks_at_the_graph():
    graph = graph_of(CHAIN, u=SQUARE, v=SQUARE)
    before = gs.export_onnx(graph).SerializeToString()
    for target in (TENSORRT, ORT_CPU):
        assert place(graph, target).tensors == place(graph, target).tensors
    assert gs.export_onnx(graph).SerializeToString() == before


# -- why layers stay in float

NAN = np.full((16, 16, 1, 1), np.nan, np.float32)
IN_FLOAT = [
    ("Conv (x, k)", {}, "its second operand is computed, not a constant weight"),
    ("Conv (x, w)", {"w": NAN}, "its weights hold NaN or infinity"),
    ("Conv (x, w)", {"w": np.full((16, 16, 1, 1), -np.inf, np.float32)}, "its weights hold NaN or infinity"),
    ("MatMul (x, w)", {"w": (16, 8, 3)}, "its weights differ from sample to sample (more than two axes)"),
    ("MatMul (x, w)", {"w": (8,)}, "its weights are not a matrix"),
    ("MatMul (x, w)", {"w": (8, 0)}, "its weights are not a matrix"),
    ("MatMul (w, v)", {"w": (4, 8), "v": (8, 3)}, "both operands are constant"),
    ("Gemm <transA = 1> (f, w)", {"w": (8, 3)}, "its activation is transposed (transA)"),
]  # fmt: skip


@pytest.mark.parametrize("target", [TENSORRT, ORT_CPU], ids=lambda target: target.name)
@pytest.mark.parametrize(("layer", "initializers", "reason"), IN_FLOAT)
def test_a_layer_that_stays_in_float_says_why(target, layer, initializers, reason):
    graph = graph_of(
        f"g (float[8,16,8,8] x) => (float y) {{ f = Reshape (x, s) k = Reshape (x, s4) y = {layer} }}",
        s=np.array([8, -1]), s4=np.array([-1, 16, 1, 1]), **initializers,
    )  # fmt: skip
    check(graph, target, {}, {}, skips=[(f"{layer.split()[0]}_y", reason)], weights={})


def test_half_precision_stays_as_it_is():
    for kind, dtype in (("float16", np.float16), ("double", np.float64)):
        graph = graph_of(f"g ({kind}[N,8] x) => ({kind}[N,4] y) {{ y = MatMul (x, w) }}", w=np.ones((8, 4), dtype))
        for target in (TENSORRT, ORT_CPU):
            check(graph, target, {}, {}, skips=[("MatMul_y", f"its weights are {np.dtype(dtype)}, not float32")])


def test_transposed_convolutions():
    text = "g (float[N,16,8,8] x) => (float[A,B,C,D] y) {{ y = ConvTranspose <group = {group}> (x, w) }}"
    whole, grouped = (graph_of(text.format(group=group), w=(16, 16, 3, 3)) for group in (1, 2))
    for graph in (whole, grouped):
        check(graph, ORT_CPU, {}, {}, skips=[("ConvTranspose_y", "ort-cpu has no integer kernel for ConvTranspose")])
    refused = "a grouped ConvTranspose is refused by the runtime's parser"
    check(grouped, TENSORRT, {}, {}, skips=[("ConvTranspose_y", refused)])
    check(whole, TENSORRT, {"x": reads("ConvTranspose_y")}, {"x": "ConvTranspose_y"},
          weights={"w": ("ConvTranspose_y", None)})  # fmt: skip


@pytest.mark.parametrize(
    ("into", "out", "group", "kernel", "integers"),
    [(3, 10, 1, 3, False), (4, 8, 1, 3, False), (3, 16, 1, 3, True), (16, 10, 1, 1, True), (9, 17, 1, 3, False),
     (16, 16, 1, 1, True), (8, 8, 8, 3, True), (8, 8, 8, 1, False), (12, 12, 12, 3, False), (32, 32, 32, 1, True)],
)  # fmt: skip
def test_convolutions_of_few_channels_stay_in_float_on_tensorrt(into, out, group, kernel, integers):
    graph = graph_of(
        f"g (float[N,{into},8,8] x) => (float[A,B,C,D] y) {{ y = Conv <group = {group}> (x, w) }}",
        w=(out, into // group, kernel, kernel),
    )
    placed = place(graph, TENSORRT)
    reason = [] if integers else [f"few channels ({into} in, {out} out): faster in float"]
    assert [skip.reason for skip in placed.skips] == reason
    assert ("w" in placed.weights) is integers
    assert "w" in place(graph, ORT_CPU).weights


def test_the_axis_of_the_output_channels():
    for layer, axis in [("Conv", 0), ("ConvTranspose", 1), ("MatMul", 1), ("Gemm", 1)]:
        assert weight_axis(gs.Node(layer)) == axis
    assert weight_axis(gs.Node("Gemm", attrs={"transB": 1})) == 0
