"""Means over all pixels become pools and compute the same; all others stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.base import run_passes
from passes.mean_to_pool import MeanToPool
from tests.passes.conftest import canonical, interface, model_of, run

RNG = np.random.default_rng(9)


def rewritten(text, *shape, opset=17, **initializers):
    """Operators after the pass; outputs and the interface are compared here."""
    model = model_of(f"g {text}", opset, **initializers)
    graph = canonical(model)
    (result,) = run_passes(graph, [MeanToPool()])
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    assert interface(after) == interface(model)
    x = RNG.standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=1e-5, atol=1e-6)
    operators = [node.op_type for node in after.graph.node]
    assert result.changed == operators.count("GlobalAveragePool")
    return operators


@pytest.mark.parametrize("axes", ["[2, 3]", "[3, 2]", "[-1, -2]", "[2, -1]"])
def test_a_mean_over_height_and_width(axes):
    text = f"(float[N,4,5,6] x) => (float[N,4,1,1] y) {{ y = ReduceMean <axes = {axes}> (x) }}"
    assert rewritten(text, 2, 4, 5, 6) == ["GlobalAveragePool"]


@pytest.mark.parametrize(("pixels", "axes"), [("5", "[2]"), ("5,6", "[2, 3]"), ("2,3,4", "[2, 3, 4]")])
def test_axes_that_are_not_kept_are_flattened(pixels, axes):
    text = f"(float[N,4,{pixels}] x) => (float[N,4] y) {{ y = ReduceMean <axes = {axes}, keepdims = 0> (x) }}"
    assert rewritten(text, 2, 4, *map(int, pixels.split(","))) == ["GlobalAveragePool", "Flatten"]


def test_axes_are_an_input_since_opset_18():
    text = "(float[N,4,H,W] x) => (float[N,4] y) { y = ReduceMean <keepdims = 0> (x, axes) }"
    assert rewritten(text, 3, 4, 5, 6, opset=18, axes=np.array([-2, -1])) == ["GlobalAveragePool", "Flatten"]


@pytest.mark.parametrize(
    ("shape", "mean", "left"),
    [
        ("N,4,5,6", "<axes = [1]> (x)", "N,1,5,6"),  # channels
        ("N,4,5,6", "<axes = [2]> (x)", "N,4,1,6"),  # rows alone
        ("N,4,5,6", "<axes = [0, 2, 3]> (x)", "1,4,1,1"),
        ("N,4,5,6", "(x)", "1,1,1,1"),  # everything
        ("N,4", "<axes = [1]> (x)", "N,1"),
    ],
)
def test_every_other_mean_stays(shape, mean, left):
    sizes = [3, *map(int, shape.split(",")[1:])]
    assert rewritten(f"(float[{shape}] x) => (float[{left}] y) {{ y = ReduceMean {mean} }}", *sizes) == ["ReduceMean"]


def test_axes_that_are_computed_or_empty_are_left_alone():
    text = "(float[N,4,5,6] x) => (float[A,B,C,D] y) {{ {nodes} }}"
    computed = text.format(nodes="a = Abs (axes) y = ReduceMean (x, a)")
    empty = text.format(nodes="y = ReduceMean <noop_with_empty_axes = 1> (x, axes)")
    assert rewritten(computed, 2, 4, 5, 6, opset=18, axes=np.array([2, 3])) == ["Abs", "ReduceMean"]
    assert rewritten(empty, 2, 4, 5, 6, opset=18, axes=np.array([], np.int64)) == ["ReduceMean"]


def test_integers_and_an_unknown_number_of_axes():
    graph = canonical(model_of("g (int32[N,4,5,6] x) => (int32[N,4,1,1] y) { y = ReduceMean <axes = [2,3]> (x) }"))
    assert run_passes(graph, [MeanToPool()])[0].changed == 0
    graph = canonical(model_of("g (float[N,4,5,6] x) => (float y) { y = ReduceMean <axes = [2,3]> (x) }"))
    graph.inputs[0].shape = None
    assert run_passes(graph, [MeanToPool()])[0].changed == 0
