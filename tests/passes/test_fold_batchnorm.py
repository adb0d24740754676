"""Folding changes no output, and what a normalization knew is kept whether it folds or not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.base import run_passes
from passes.canonicalize import CANONICAL
from passes.fold_batchnorm import FoldBatchNorm
from tests.passes.conftest import model_of, run

RNG = np.random.default_rng(1)
NORM = "y = BatchNormalization <epsilon = 0.001> (h, gamma, beta, mean, var)"


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def statistics(channels):
    """Of a normalization; some of its gammas are negative, one is zero, and its smallest variance is tiny."""
    gamma, variance = weights(channels), np.abs(weights(channels)) + 0.3
    gamma[:3], variance[-1] = (-1.5, 0.0, 0.8), 1e-4
    return {"gamma": gamma, "beta": weights(channels), "mean": weights(channels), "var": variance}


def folded(model):
    """The model after folding, the operators left, the skips and the statistics."""
    graph, fold = gs.import_onnx(model), FoldBatchNorm({})
    result = run_passes(graph, [*CANONICAL, fold])[-1]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after)
    assert [entry.name for entry in after.graph.output] == [entry.name for entry in model.graph.output]
    return after, [node.op_type for node in after.graph.node], result, fold.statistics


def computes_the_same(model, after, x):
    for ours, theirs in zip(run(after, x), run(model, x), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


FOLDS = {
    "conv": ("N,4,6,6", "h = Conv <pads = [1,1,1,1]> (x, w, b)", {"w": (8, 4, 3, 3), "b": (8,)}, "Conv"),
    "conv without bias": ("N,4,6,6", "h = Conv (x, w)", {"w": (8, 4, 3, 3)}, "Conv"),
    "conv of one axis": ("N,4,9", "h = Conv <strides = [2]> (x, w, b)", {"w": (8, 4, 3), "b": (8,)}, "Conv"),
    "grouped conv": ("N,4,6,6", "h = Conv <group = 2> (x, w, b)", {"w": (8, 2, 3, 3), "b": (8,)}, "Conv"),
    "depthwise conv": ("N,8,6,6", "h = Conv <group = 8> (x, w)", {"w": (8, 1, 3, 3)}, "Conv"),
    "transposed": ("N,4,5,5", "h = ConvTranspose <strides = [2,2]> (x, w, b)", {"w": (4, 8, 3, 3), "b": (8,)},
                   "ConvTranspose"),
    "grouped transposed": ("N,6,5,5", "h = ConvTranspose <group = 2> (x, w)", {"w": (6, 4, 3, 3)}, "ConvTranspose"),
    "gemm": ("N,5", "h = Gemm (x, w, b)", {"w": (5, 8), "b": (8,)}, "Gemm"),
    "gemm transB": ("N,5", "h = Gemm <transB = 1> (x, w, b)", {"w": (8, 5), "b": (8,)}, "Gemm"),
    "gemm without bias": ("N,5", "h = Gemm <transB = 1, alpha = 0.5, beta = 3.0> (x, w)", {"w": (8, 5)}, "Gemm"),
    "gemm alpha beta": ("N,5", "h = Gemm <alpha = 0.5, beta = -2.0> (x, w, b)", {"w": (5, 8), "b": (8,)}, "Gemm"),
    "gemm scalar bias": ("N,5", "h = Gemm <beta = 2.0> (x, w, b)", {"w": (5, 8), "b": (1,)}, "Gemm"),
    "gemm bias by row": ("3,5", "h = Gemm <beta = 2.0> (x, w, b)", {"w": (5, 8), "b": (3, 8)}, "Gemm"),
    "gemm transA": ("5,N", "h = Gemm <transA = 1> (x, w, b)", {"w": (5, 8), "b": (8,)}, "Gemm"),
    "matmul": ("N,5", "h = MatMul (x, w)", {"w": (5, 8)}, "Gemm"),
    "matmul add": ("N,5", "p = MatMul (x, w) h = Add (p, b)", {"w": (5, 8), "b": (8,)}, "MatMul Add"),
    "matmul add, bias first": ("N,5", "p = MatMul (x, w) h = Add (b, p)", {"w": (5, 8), "b": (1, 8)}, "MatMul Add"),
    "matmul add of one number": ("N,5", "p = MatMul (x, w) h = Add (p, b)", {"w": (5, 8), "b": (1,)}, "MatMul Add"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDS)
def test_folding_is_exact(case):
    shape, layer, parameters, left = FOLDS[case]
    rank = shape.count(",") + 1
    given = {name: weights(*size) for name, size in parameters.items()} | statistics(8)
    model = model_of(f"g (float[{shape}] x) => (float[{','.join('ABCD'[:rank])}] y) {{ {layer} {NORM} }}", **given)
    x = weights(*(3 if size == "N" else int(size) for size in shape.split(",")))
    after, operators, result, _ = folded(model)
    assert operators == left.split()
    assert (result.changed, result.skips) == (1, ())
    computes_the_same(model, after, x)


def test_a_chain_of_layers_folds_whole_even_with_shared_weights():
    model = model_of(
        """g (float[N,8,5,5] x) => (float[N,8,5,5] y) {
            a = Conv (x, w, beta) n = BatchNormalization (a, gamma, beta, mean, var) r = Relu (n)
            c = Conv (r, w, beta) m = BatchNormalization (c, gamma, beta, mean, var)
            y = BatchNormalization (m, beta, gamma, mean, var)
        }""",
        w=weights(8, 8, 1, 1), **statistics(8),
    )  # fmt: skip
    after, operators, result, found = folded(model)
    assert operators == ["Conv", "Relu", "Conv"]
    assert result.changed == 3
    assert sorted(found) == ["m", "n", "y"]
    computes_the_same(model, after, weights(2, 8, 5, 5))


def test_statistics_are_beta_and_the_size_of_gamma_under_the_name_of_the_output():
    given = statistics(8)
    model = model_of(
        f"g (float[N,4,6,6] x) => (float[N,8,4,4] y) {{ h = Conv (x, w) {NORM} }}", w=weights(8, 4, 3, 3), **given
    )
    after, *_, found = folded(model)
    assert list(found) == ["y"]
    np.testing.assert_array_equal(found["y"].mean, given["beta"])
    np.testing.assert_array_equal(found["y"].std, np.abs(given["gamma"]))
    assert after.graph.node[-1].output[0] == "y"  # where they are looked up later


CONV = {"w": (8, 8, 1, 1)}
STAYS = {
    "training": ("N,8,5,5", "A,B,C,D", "h = Conv (x, w) y, s, t = BatchNormalization <training_mode = 1> "
                 "(h, gamma, beta, mean, var)", CONV, "the normalization is in training mode", True),
    "computed statistics": ("N,8,5,5", "A,B,C,D", "h = Conv (x, w) k = Abs (mean) "
                            "y = BatchNormalization (h, gamma, beta, k, var)", CONV,
                            "its statistics are not constant", False),
    "input": ("N,8,5,5", "A,B,C,D", "y = BatchNormalization (x, gamma, beta, mean, var)", {},
              "it normalizes an input of the model", True),
    "no weights": ("N,8,5,5", "A,B,C,D", f"h = Relu (x) {NORM}", {}, "it follows Relu, which has no weights", True),
    "second reader": ("N,8,5,5", "A,B,C,D", "h = Conv (x, w) n = BatchNormalization (h, gamma, beta, mean, var) "
                      "y = Mul (n, h)", CONV, "the output of Conv_h is used elsewhere too", True),
    "no bias": ("N,8,5,5", "A,B,C,D", f"a = Conv (x, w) h = Add (a, x) {NORM}", CONV,
                "it follows Add_h, an Add that is no bias", True),
    "second reader of the product": ("N,8", "A,B", "p = MatMul (x, w) h = Add (p, beta) "
                                     "n = BatchNormalization (h, gamma, beta, mean, var) y = Mul (n, p)",
                                     {"w": (8, 8)}, "the output of MatMul_p is used elsewhere too", True),
    "computed weights": ("N,8,5,5", "A,B,C,D", f"k = Abs (w) h = Conv (x, k) {NORM}", CONV,
                         "the weights of Conv_h are not constant", True),
    "stacked weights": ("2,3,8", "A,B,C", f"h = MatMul (x, w) {NORM}", {"w": (2, 8, 4)},
                        "the weights of MatMul_h are not a matrix", True),
    "computed bias": ("N,8,5,5", "A,B,C,D", f"k = Abs (beta) h = Conv (x, w, k) {NORM}", CONV,
                      "the bias of Conv_h is not constant", True),
    "channels in the middle": ("N,8,8", "A,B,C", f"h = MatMul (x, w) {NORM}", {"w": (8, 8)},
                               "the channels of MatMul_h may not be its last axis", True),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_what_cannot_fold_says_why_and_still_lends_its_statistics(case):
    shape, out, layers, parameters, reason, lends = STAYS[case]
    channels = 3 if case == "stacked weights" else 8
    given = {name: weights(*size) for name, size in parameters.items()} | statistics(channels)
    model = model_of(f"g (float[{shape}] x) => (float[{out}] y) {{ {layers} }}", **given)
    after, operators, result, found = folded(model)
    assert result.changed == 0
    ((node, rule, why),) = [(skip.node, skip.rule, skip.reason) for skip in result.skips]
    assert (rule, why) == ("fold-batchnorm", reason)
    assert node.startswith("BatchNormalization")
    assert "BatchNormalization" in operators
    assert bool(found) is lends
    if lends:
        np.testing.assert_array_equal(next(iter(found.values())).mean, given["beta"])
    x = weights(*(2 if size == "N" else int(size) for size in shape.split(",")))
    if case != "training":  # whose running statistics have no place in the comparison
        computes_the_same(model, after, x)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ("h = Conv (x, w)", "the output of Conv_h is used elsewhere too"),
        ("q = Flatten (x) h = MatMul (q, m)", "the output of MatMul_h is used elsewhere too"),
        ("q = Flatten (x) p = MatMul (q, m) h = Add (p, beta)", "the output of Add_h is used elsewhere too"),
    ],
)
def test_an_output_of_the_model_is_not_overwritten(layers, reason):
    kind = "A,B,C,D" if "Conv" in layers else "A,B"
    model = model_of(
        f"g (float[N,8,1,1] x) => (float[{kind}] y, float[{kind}] h) {{ {layers} {NORM} }}",
        w=weights(8, 8, 1, 1), m=weights(8, 8), **statistics(8),
    )  # fmt: skip
    after, _, result, _ = folded(model)
    assert [skip.reason for skip in result.skips] == [reason]
    computes_the_same(model, after, weights(3, 8, 1, 1))


def test_another_reader_of_the_weights_sees_them_unchanged():
    model = model_of(
        f"g (float[N,8,1,1] x) => (float[N,8,1,1] y, float[A,B,C,D] z) {{ h = Conv (x, w) {NORM} z = Abs (w) }}",
        w=weights(8, 8, 1, 1), **statistics(8),
    )  # fmt: skip
    computes_the_same(model, folded(model)[0], weights(3, 8, 1, 1))


@pytest.mark.parametrize("rows", [(8, 1), (8, 8)])
def test_an_add_that_differs_from_row_to_row_computes_the_same(rows):
    model = model_of(
        f"g (float[8,5] x) => (float[8,8] y) {{ p = MatMul (x, w) h = Add (p, b) {NORM} }}",
        w=weights(5, 8), b=weights(*rows), **statistics(8),
    )  # fmt: skip
    computes_the_same(model, folded(model)[0], weights(8, 5))
