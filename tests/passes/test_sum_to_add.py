"""A Sum becomes additions in the order of its inputs and computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.base import run_passes
from passes.sum_to_add import SumToAdd
from tests.passes.conftest import canonical, interface, model_of, run

RNG = np.random.default_rng(10)


@pytest.mark.parametrize(
    ("terms", "operators"),
    [("x", ["Sum"]), ("x, k", ["Add"]), ("x, x", ["Add"]), ("x, k, v", ["Add", "Add"]), ("v, k, x, x", ["Add"] * 3)],
)
def test_sums_of_any_length(terms, operators):
    text = f"g (float[N,4] x) => (float[N,4] y) {{ y = Sum ({terms}) }}"
    known = {"k": np.float32(0.1), "v": RNG.standard_normal(4).astype(np.float32)}
    model = model_of(text, **{name: value for name, value in known.items() if name in terms})
    graph = canonical(model)
    (result,) = run_passes(graph, [SumToAdd()])
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    assert interface(after) == interface(model)
    assert [node.op_type for node in after.graph.node] == operators
    assert len({node.name for node in after.graph.node}) == len(operators)
    assert result.changed == (operators != ["Sum"])
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(model, x)[0])
