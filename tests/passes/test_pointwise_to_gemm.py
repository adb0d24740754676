"""Convolutions of a single pixel become Gemm and compute the same; all others stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.base import run_passes
from passes.canonicalize import CANONICAL
from passes.pointwise_to_gemm import PointwiseToGemm
from tests.passes.conftest import model_of, run

RNG = np.random.default_rng(7)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def rewritten(model, x):
    """Operators after the pass and how many it changed; outputs, names and dimensions are compared here."""
    graph = gs.import_onnx(model)
    changed = run_passes(graph, [*CANONICAL, PointwiseToGemm()])[-1].changed
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    assert list(after.graph.output) == list(model.graph.output)
    assert list(after.graph.input) == list(model.graph.input)
    for ours, theirs in zip(run(after, x), run(model, x), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    return [node.op_type for node in after.graph.node], changed


def test_a_classifier_ends_in_gemm_and_its_flatten_goes():
    model = model_of(
        "g (float[N,8,5,5] x) => (float[N,6] y) { p = GlobalAveragePool (x) c = Conv (p, w, b) y = Flatten (c) }",
        w=weights(6, 8, 1, 1), b=weights(6),
    )  # fmt: skip
    assert rewritten(model, weights(3, 8, 5, 5)) == (["GlobalAveragePool", "Flatten", "Gemm"], 1)


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "GlobalMaxPool"])
def test_an_output_of_four_axes_keeps_them(pool):
    model = model_of(
        f"g (float[N,8,5,5] x) => (float[N,6,1,1] y) {{ p = {pool} (x) y = Conv (p, w) }}", w=weights(6, 8, 1, 1)
    )
    assert rewritten(model, weights(3, 8, 5, 5)) == ([pool, "Flatten", "Gemm", "Reshape"], 1)


SQUEEZE_AND_EXCITE = """g (float[N,8,5,5] x) => (float[N,8,5,5] y) {{
    p = GlobalAveragePool (x) a = Conv <strides = [2,2]> (p, w, b) r = Relu (a) c = Conv (r, v, b2)
    s = Sigmoid (c) {end}
}}"""


@pytest.mark.parametrize(
    ("end", "gemms"), [("m = Mul (x, s) y = Conv (m, z)", 0), ("m = Mul (x, s) y = MatMul (m, k)", 0),
                       ("y = Mul (x, s)", 1)],
)  # fmt: skip
def test_squeeze_and_excite_stays_convolutions_before_other_layers(end, gemms):
    known = {"z": weights(8, 8, 1, 1), "k": weights(5, 5)}
    model = model_of(
        SQUEEZE_AND_EXCITE.format(end=end), w=weights(2, 8, 1, 1), b=weights(2), v=weights(8, 2, 1, 1), b2=weights(8),
        **{name: value for name, value in known.items() if f" {name})" in end},
    )  # fmt: skip
    operators, changed = rewritten(model, weights(2, 8, 5, 5))
    assert (changed, operators.count("Gemm"), operators.count("Reshape")) == (gemms, gemms, gemms)


def test_of_two_in_a_row_with_one_weight_the_second():
    model = model_of(
        "g (float[N,4,1,1] x) => (float[N,4] y) { a = Conv (x, w) b = Conv (a, w) y = Flatten (b) }",
        w=weights(4, 4, 1, 1),
    )
    operators, changed = rewritten(model, weights(3, 4, 1, 1))
    assert (changed, operators.count("Gemm"), operators.count("Conv")) == (1, 1, 1)


def test_a_flatten_that_is_not_the_only_reader_stays():
    model = model_of(
        """g (float[N,4,1,1] x) => (float[N,4] y, float[N,4,1,1] z) {
            a = Conv (x, w) y = Flatten (a) z = Relu (a)
        }""",
        w=weights(4, 4, 1, 1),
    )  # fmt: skip
    operators, _ = rewritten(model, weights(3, 4, 1, 1))
    assert operators.count("Reshape") == 1
    assert operators.count("Flatten") == 2


def test_an_output_of_the_model_that_is_flattened_too_is_still_written():
    model = model_of(
        "g (float[N,4,1,1] x) => (float[N,4] y, float[N,4,1,1] a) { a = Conv (x, w) y = Flatten (a) }",
        w=weights(4, 4, 1, 1),
    )
    assert rewritten(model, weights(3, 4, 1, 1))[1] == 1


def test_a_flatten_of_other_axes_is_kept():
    model = model_of(
        "g (float[3,4,1,1] x) => (float[1,12] y) { a = Conv (x, w) y = Flatten <axis = 0> (a) }", w=weights(4, 4, 1, 1)
    )
    assert rewritten(model, weights(3, 4, 1, 1))[0].count("Reshape") == 1


def test_a_computed_bias_is_read_as_before():
    model = model_of(
        "g (float[N,4,1,1] x) => (float[N,4] y) { k = Abs (b) a = Conv (x, w, k) y = Flatten (a) }",
        w=weights(4, 4, 1, 1), b=weights(4),
    )  # fmt: skip
    assert rewritten(model, weights(3, 4, 1, 1))[0] == ["Abs", "Flatten", "Gemm"]


@pytest.mark.parametrize(
    ("size", "conv", "shape"),
    [
        ("5,5", "Conv (x, w)", (6, 8, 1, 1)),  # many pixels
        ("H,W", "Conv (x, w)", (6, 8, 1, 1)),  # nobody knows how many
        ("1,1", "Conv <group = 2> (x, w)", (6, 4, 1, 1)),
        ("1,1", "Conv <pads = [1,1,1,1]> (x, w)", (6, 8, 1, 1)),
        ("1,1", "Conv <pads = [1,1,1,1]> (x, w)", (6, 8, 3, 3)),
        ("1,1", "Conv (x, k)", (6, 8, 1, 1)),  # computed weights
    ],
)
def test_every_other_convolution_stays(size, conv, shape):
    model = model_of(f"g (float[N,8,{size}] x) => (float[A,B,C,D] y) {{ k = Abs (w) y = {conv} }}", w=weights(*shape))
    x = weights(2, 8, *(int(each) if each.isdigit() else 3 for each in size.split(",")))
    operators, changed = rewritten(model, x)
    assert changed == 0
    assert "Conv" in operators
    assert "Gemm" not in operators
