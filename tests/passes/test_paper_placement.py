"""The placement of the papers: weights everywhere, activations only behind a Relu."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.allocate_bits import uniform_bits
from passes.base import Skip, run_passes
from passes.freeze_weights import FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.paper_placement import place_as_published
from passes.placement import WeightSite
from passes.plan import bias_floor, decide
from passes.targets import TARGETS
from tests.passes.conftest import decibels, run
from tests.passes.placements import graph_of

RESIDUAL = """g (float[N,4,8,8] x) => (float[N,3] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    r = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
    s = Add(c, r)
    t = Relu(s)
    p = GlobalAveragePool(t)
    f = Flatten(p)
    y = Gemm<transB = 1>(f, w3, b3)
}"""
SHAPES = {"w1": (4, 4, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "b2": (4,), "w3": (3, 4), "b3": (3,)}


def one(relu: str, **held: np.ndarray | tuple[int, ...]) -> gs.Graph:
    """Conv, the line given, and two readers of what it writes."""
    text = f"""g (float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,1,1] p) {{
        a = Conv(x, w)
        {relu}
        y = Conv(r, v)
        p = GlobalAveragePool(r)
    }}"""
    return graph_of(text, w=(4, 4, 1, 1), v=(4, 4, 1, 1), **held)


def test_weights_of_all_layers_and_what_a_relu_writes() -> None:
    placed = place_as_published(graph_of(RESIDUAL, **SHAPES))
    assert placed.weights == {
        "w1": WeightSite("Conv_a", 0), "w2": WeightSite("Conv_c", 0), "w3": WeightSite("Gemm_y", 0),
    }  # fmt: skip
    assert placed.tensors == {
        "r": "output of Relu_r (Relu), as published", "t": "output of Relu_t (Relu), as published",
    }  # fmt: skip
    assert placed.readers == {"r": {"Conv_c", "Add_s"}, "t": {"GlobalAveragePool_p"}}
    assert (placed.groups, placed.skips) == ([], [])
    assert placed.integer == {"Conv_c"}, "the other layers read float"


@pytest.mark.parametrize(
    ("relu", "held"),
    [
        ("r = Relu(a)", {}),
        ("r = Clip(a, zero, six)", {"zero": np.float32(0), "six": np.float32(6)}),
        ("r = Clip(a, zero)", {"zero": np.float32(0)}),
    ],
)
def test_relu_and_relu6(relu: str, held: dict[str, np.ndarray]) -> None:
    placed = place_as_published(one(relu, **held))
    assert placed.readers == {"r": {"Conv_y", "GlobalAveragePool_p"}}


@pytest.mark.parametrize(
    ("other", "held"),
    [
        ("r = Clip(a, low, six)", {"low": np.float32(-6), "six": np.float32(6)}),
        ("r = Clip(a, , six)", {"six": np.float32(6)}),
        ("l = ReduceMin<keepdims = 0>(a) r = Clip(a, l)", {}),
        ("r = LeakyRelu(a)", {}),
        ("r = Sigmoid(a)", {}),
        ("d = Cast<to = 11>(a) e = Relu(d) r = Cast<to = 1>(e)", {}),
    ],
)
def test_without_a_relu_it_says_so(other: str, held: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="no Relu or ReLU6 writes an activation, and the papers quantize no others"):
        place_as_published(one(other, **held))


def test_every_kind_of_layer_and_why_some_stay_in_float() -> None:
    text = """g (float[N,4,8,8] x, float[N,8,8] z)
        => (float[N,4,8,8] t, float[N,4,8,8] u, float[N,8,5] m, float[N,8,8] n) {
        a = Conv(x, w)
        r = Relu(a)
        t = ConvTranspose(r, wt)
        u = ConvTranspose<group = 2>(r, wg)
        m = MatMul(z, wm)
        n = MatMul(z, z)
    }"""
    held = {"w": (4, 4, 1, 1), "wt": (4, 4, 1, 1), "wg": (4, 2, 1, 1), "wm": (8, 5)}
    placed = place_as_published(graph_of(text, **held))
    assert placed.weights == {
        "w": WeightSite("Conv_a", 0), "wt": WeightSite("ConvTranspose_t", 1), "wm": WeightSite("MatMul_m", 1),
    }  # fmt: skip
    assert placed.skips == [
        Skip("ConvTranspose_u", "placement", "a grouped ConvTranspose is refused by the runtime's parser"),
        Skip("MatMul_n", "placement", "its second operand is computed, not a constant weight"),
    ]


def test_nodes_kept_in_float_neither_count_nor_read_integers() -> None:
    graph = graph_of(RESIDUAL, **SHAPES)
    placed = place_as_published(graph, {"Conv_c": "as told", "GlobalAveragePool_p": "as told"})
    assert placed.weights.keys() == {"w1", "w3"}
    assert placed.skips == [Skip("Conv_c", "placement", "as told")]
    assert placed.readers == {"r": {"Add_s"}}, "t has no reader that may read it so"


def test_an_output_of_the_model_that_nobody_reads() -> None:
    text = "g (float[N,4,8,8] x) => (float[N,4,8,8] r) { a = Conv(x, w) r = Relu(a) }"
    placed = place_as_published(graph_of(text, w=(4, 4, 1, 1)))
    assert placed.readers == {"r": set()}


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_plan_is_inserted_frozen_and_run(target: str, bits: int) -> None:
    graph = graph_of(RESIDUAL, **SHAPES)
    model = onnx.shape_inference.infer_shapes(gs.export_onnx(graph))
    placed = place_as_published(graph)
    plan = decide(
        graph, dict.fromkeys(placed.tensors, (0.0, 40.0)), TARGETS[target],
        uniform_bits(graph, placed, bits, all_layers=True), placed, bits,
    )  # fmt: skip
    assert {name: params.bits for name, params in plan.tensors.items()} == dict.fromkeys(
        ["r", "t", "w1", "w2", "w3"], bits
    )
    run_passes(graph, [InsertQDQ(plan), FreezeWeights()])
    quantized = gs.export_onnx(graph)
    onnx.checker.check_model(quantized)
    pairs = [node for node in quantized.graph.node if node.op_type == "DequantizeLinear"]
    assert len(pairs) == 5
    x = np.random.default_rng(0).normal(0, 0.2, (8, 4, 8, 8)).astype(np.float32)
    noise = decibels(run(model, x)[0], run(quantized, x)[0])
    assert (25 < noise < 60) if bits == 8 else (3 < noise < 30)


def test_only_weights_behind_a_quantizer_have_room_for_their_bias() -> None:
    held = SHAPES | {name: np.float32([1e6, 0, 0, 0]) for name in ("b1", "b2")}
    for name in ("w1", "w2"):
        held[name] = np.full(SHAPES[name], 1e-3, np.float32)
    graph = graph_of(RESIDUAL, **held)
    placed = place_as_published(graph)
    plan = decide(graph, dict.fromkeys(placed.tensors, (0.0, 1.0)), TARGETS["ort-cpu"], 8, placed)
    first, second = (next(node for node in graph.nodes if node.name == name) for name in ("Conv_a", "Conv_c"))
    assert plan.tensors["w1"].scale[0] == pytest.approx(1e-3 / 127), "a bias beside a float input stays in float"
    floor = bias_floor(second, plan.tensors["r"].scale[0])[0]
    assert plan.tensors["w2"].scale[0] == pytest.approx(floor)
    assert floor > 1e-3 / 127
    assert first.inputs[2].values[0] == second.inputs[2].values[0]
