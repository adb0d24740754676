"""Products with a bias keep their values and get an integer kernel."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.base import run_passes
from passes.freeze_weights import FreezeBiases, FreezeWeights
from passes.gemm_layout import GemmLayout
from passes.insert_qdq import InsertQDQ
from passes.placement import place
from passes.plan import decide
from passes.targets import ORT_CPU
from tests.passes.conftest import canonical, kernels, model_of, run

RNG = np.random.default_rng(6)


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def laid_out(model):
    graph = canonical(model)
    result = run_passes(graph, [GemmLayout()])[0]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, result.changed


def quantized(model):
    graph = canonical(model)
    plan = decide(graph, dict.fromkeys(place(graph, ORT_CPU).tensors, (-4.0, 4.0)), ORT_CPU)
    run_passes(graph, [InsertQDQ(plan), FreezeBiases(ORT_CPU.int32_bias_written), FreezeWeights()])
    return gs.export_onnx(graph)


ADD = ["z = MatMul (x, w) y = Add (z, b)", "z = MatMul (x, w) y = Add (b, z)"]


@pytest.mark.parametrize("body", ADD)
@pytest.mark.parametrize("bias", [(8,), (1, 8)])
@pytest.mark.parametrize("rows", ["4", "N"])
def test_a_product_of_matrices_becomes_a_gemm(rows, bias, body, tmp_path):
    model = model_of(f"g (float[{rows},16] x) => (float[{rows},8] y) {{ {body} }}", w=random(16, 8), b=random(*bias))
    after, changed = laid_out(model)
    assert changed == 1
    assert [(node.op_type, node.name, len(node.input)) for node in after.graph.node] == [("Gemm", "MatMul_z", 3)]
    x = random(4, 16)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=1e-5, atol=1e-5)
    assert "Gemm" in kernels(quantized(model), tmp_path)  # in float: what the pass is there for
    found = kernels(quantized(after), tmp_path)
    assert found["QGemm"] == 1
    assert "Gemm" not in found


@pytest.mark.parametrize("body", ADD)
def test_a_product_of_stacks_is_left_apart_from_its_bias(body, tmp_path):
    model = model_of(f"g (float[2,4,16] x) => (float[2,4,8] y) {{ {body} }}", w=random(16, 8), b=random(8))
    after, changed = laid_out(model)
    assert changed == 1
    assert Counter(node.op_type for node in after.graph.node) == {"MatMul": 1, "Add": 1}
    assert (1, 8) in [tuple(tensor.dims) for tensor in after.graph.initializer]
    x = random(2, 4, 16)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=1e-5, atol=1e-5)
    assert "Gemm" in kernels(quantized(model), tmp_path)
    found = kernels(quantized(after), tmp_path)
    assert found["MatMulIntegerToFloat"] == 1
    assert not {"Gemm", "MatMul"} & set(found)


def test_a_product_that_stays_apart_by_itself_is_left_alone(tmp_path):
    model = model_of(
        "g (float[N,4,16] x) => (float[N,4,8] y) { z = MatMul (x, w) y = Add (z, b) }", w=random(16, 8), b=random(8)
    )
    assert laid_out(model)[1] == 0
    assert kernels(quantized(model), tmp_path)["MatMulIntegerToFloat"] == 1


LEFT_ALONE = {
    "its product is read twice": "z = MatMul (x, w) a = Add (z, b) y = Mul (a, z)",
    "the sum is not with a bias": "z = MatMul (x, w) y = Add (z, x)",
    "the bias differs from row to row": "z = MatMul (x, w) y = Add (z, rows)",
    "the bias adds a dimension": "z = MatMul (x, w) a = Add (z, stack) y = ReduceSum <keepdims = 0> (a, first)",
    "one value for all columns": "z = MatMul (x, w) y = Add (z, one)",
    "the weights come first": "z = MatMul (w, x) y = Add (z, b)",
    "both are computed": "k = Relu (x) z = MatMul (x, k) y = Add (z, b)",
    "nothing is added": "z = MatMul (x, w) y = Relu (z)",
}
VALUES = {"b": random(8), "w": random(8, 8), "rows": random(8, 8), "stack": random(1, 1, 8), "one": np.float32(2),
          "first": np.array([0])}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_other_products_stay_as_they_are(case):
    body = LEFT_ALONE[case]
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    model = model_of(f"g (float[8,8] x) => (float[8,8] y) {{ {body} }}",
                     **{name: value for name, value in VALUES.items() if name in words})  # fmt: skip
    assert laid_out(model)[1] == 0


def test_a_product_that_the_model_gives_out_stays():
    model = model_of("g (float[8,8] x) => (float[8,8] y, float[8,8] z) { z = MatMul (x, w) y = Add (z, b) }",
                     w=random(8, 8), b=random(8))  # fmt: skip
    assert laid_out(model)[1] == 0


def test_both_layers_of_a_perceptron():
    model = model_of(
        """g (float[N,16] x) => (float[N,4] y) {
            a = MatMul (x, u) b = Add (a, p) r = Relu (b) c = MatMul (r, v) y = Add (c, q)
        }""",
        u=random(16, 8), p=random(8), v=random(8, 4), q=random(4),
    )  # fmt: skip
    after, changed = laid_out(model)
    assert changed == 2
    assert [node.op_type for node in after.graph.node] == ["Gemm", "Relu", "Gemm"]
    x = random(3, 16)
    np.testing.assert_allclose(run(after, x)[0], run(model, x)[0], rtol=1e-5, atol=1e-5)
