"""A borrowed type becomes a known one, and the numbers stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.base import run_passes
from passes.castlike_to_cast import CastLikeToCast
from tests.passes.conftest import interface, model_of, run

RNG = np.random.default_rng(2)


def rewritten(text: str, opset: int = 20, **initializers: np.ndarray) -> list[str]:
    model = onnx.shape_inference.infer_shapes(model_of(f"g {text}", opset, **initializers))
    graph = gs.import_onnx(model)
    run_passes(graph, [CastLikeToCast()])
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    assert interface(after) == interface(model)
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    for expected, computed in zip(run(model, x), run(after, x), strict=True):
        assert computed.dtype == expected.dtype
        np.testing.assert_array_equal(computed, expected)
    return [node.op_type for node in after.graph.node]


def test_the_type_of_an_input() -> None:
    text = "(float[2,3] x) => (float[2,3] y) { c = CastLike(n, x) y = Add(x, c) }"
    assert rewritten(text, n=np.array([1, 2, 3])) == ["Cast", "Add"]


@pytest.mark.parametrize("kind", [np.float16, np.int64, np.bool_])
def test_types_that_are_inferred(kind: type) -> None:
    text = (
        "(float[2,3] x) => (float[2,3] y) { k = CastLike(x, t) r = Identity(k) c = CastLike(x, r) y = CastLike(c, x) }"
    )
    assert rewritten(text, t=np.zeros(1, kind)) == ["Cast", "Cast"]


def test_what_lent_its_type_goes_if_nothing_else_reads_it() -> None:
    text = "(float[2,3] x) => (float[2,3] y) { r = Relu(x) c = CastLike(n, r) y = Add(x, c) }"
    assert rewritten(text, n=np.array([1, 2, 3])) == ["Cast", "Add"]
