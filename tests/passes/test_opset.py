"""A graph at a newer opset computes what it computed, whatever changed between the versions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import version_converter

from passes.opset import LARGE, bring_to_opset, weightless
from tests.passes.conftest import model_of, run

RNG = np.random.default_rng(3)


def raised(model, opset):
    graph = gs.import_onnx(model)
    bring_to_opset(graph, opset)
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after, full_check=True)
    assert after.opset_import[0].version == opset
    return after


IMAGE = np.abs(RNG.standard_normal((2, 4, 7, 6))).astype(np.float32)
VECTOR = RNG.standard_normal(4).astype(np.float32)

# Operators whose definition changed after opset 13, in the forms that older models hold.
CHANGED = {
    "ReduceMean over axes": (13, "y = ReduceMean <axes = [2, -1], keepdims = 0> (x)"),
    "ReduceMean over all": (13, "y = ReduceMean (x)"),
    "ReduceMax": (13, "y = ReduceMax <axes = [1]> (x)"),
    "ReduceL2": (13, "y = ReduceL2 <axes = [1], keepdims = 1> (x)"),
    "ReduceLogSumExp": (13, "y = ReduceLogSumExp <axes = [3]> (x)"),
    "Split evenly": (13, "a, b = Split <axis = 1> (x) y = Concat <axis = 1> (b, a)"),
    "Split in sizes": (13, "a, b = Split <axis = 1> (x, sizes) y = Concat <axis = 1> (b, a)"),
    "BatchNormalization": (13, "p = Abs (v) y = BatchNormalization <epsilon = 0.01> (x, v, v, v, p)"),
    "Resize nearest": (13, "y = Resize <mode = \"nearest\", nearest_mode = \"floor\"> (x, , twice)"),
    "Resize linear": (13, """y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners">
                            (x, , twice)"""),
    "Resize cubic": (13, "y = Resize <mode = \"cubic\", cubic_coeff_a = -0.5> (x, , twice)"),
    "Resize crop": (13, """y = Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">
                          (x, roi, twice)"""),
    "Pad": (13, "y = Pad <mode = \"reflect\"> (x, pads)"),
    "AveragePool": (13, "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)"),
    "AveragePool that rounds up": (13, "y = AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)"),
    "LpPool": (13, "y = LpPool <kernel_shape = [2, 2], p = 2> (x)"),
    "Dropout": (13, "y = Dropout (x)"),
    "PRelu": (13, "y = PRelu (x, w)"),
    "ScatterND": (13, "y = ScatterND (x, at, row)"),
    "ScatterElements": (13, "y = ScatterElements <axis = 3> (x, where, values)"),
    "TopK": (13, "y, i = TopK <axis = 1> (x, two)"),
    "HardSwish": (14, "y = HardSwish (x)"),
    "GridSample": (16, "y = GridSample <mode = \"bilinear\", align_corners = 1> (x, grid)"),
    "GridSample bicubic": (16, "y = GridSample <mode = \"bicubic\"> (x, grid)"),
    "LayerNormalization": (17, "y = LayerNormalization <axis = -1> (x, last, last)"),
    "Mish": (18, "y = Mish (x)"),
    "DFT": (17, "r = Reshape (x, complex) y = DFT <axis = 1> (r)"),
    "LSTM": (13, "s = Reshape (x, sequence) y, h, c = LSTM <hidden_size = 2> (s, gates, gates_h)"),
    "Cast": (13, "b = Cast <to = 7> (x) y = Cast <to = 1> (b)"),
    "ConstantOfShape": (13, "s = Shape (x) c = ConstantOfShape <value = float[1] {2.5}> (s) y = Add (x, c)"),
    "Softmax": (13, "y = Softmax <axis = 1> (x)"),
    "quantized": (13, """q = QuantizeLinear (x, step, byte) d = DequantizeLinear (q, step, byte)
                        e = DequantizeLinear <axis = 0> (codes, steps, zeros) y = Conv (d, e)"""),
}  # fmt: skip

OPERANDS = {
    "sizes": np.array([1, 3]), "v": VECTOR, "w": VECTOR.reshape(4, 1, 1), "twice": np.float32([1, 1, 2, 2]),
    "roi": np.float32([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.8]), "pads": np.array([0, 0, 1, 2, 0, 0, 2, 1]),
    "at": np.array([[1, 2]]), "row": np.ones((1, 7, 6), np.float32), "where": np.zeros((2, 4, 7, 1), np.int64),
    "values": np.full((2, 4, 7, 1), 9, np.float32), "two": np.array([2]),
    "grid": RNG.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32), "last": VECTOR[[0, 1, 2, 3, 0, 1]],
    "sequence": np.array([7, 4, 12]), "complex": np.array([2, 28, 3, 2]),
    "gates": RNG.standard_normal((1, 8, 12)).astype(np.float32),
    "gates_h": RNG.standard_normal((1, 8, 2)).astype(np.float32),
    "step": np.float32(0.02), "byte": np.uint8(3), "codes": RNG.integers(-7, 8, (8, 4, 1, 1)).astype(np.int8),
    "steps": np.full(8, 0.1, np.float32), "zeros": np.zeros(8, np.int8),
}  # fmt: skip


@pytest.mark.parametrize("opset", [21, 25])
@pytest.mark.parametrize("name", CHANGED)
def test_operators_mean_what_they_meant(name, opset):
    since, body = CHANGED[name]
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    text = f"g (float[2,4,7,6] x) => (float[A] y) {{ {body} }}"
    model = model_of(text, since, **{key: value for key, value in OPERANDS.items() if key in words})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    np.testing.assert_allclose(run(raised(model, opset), IMAGE)[0], run(model, IMAGE)[0], rtol=1e-6, atol=1e-6)


BODIES = """g (float[N,40] x, bool c) => (float[N,40] y, float[N] z) {
    [first] y = MatMul (x, w)
    [second] z = If (c) <
        then_branch = a () => (float[N] p) { m = MatMul (y, w) p = ReduceMean <axes = [1], keepdims = 0> (m) },
        else_branch = b () => (float[N] q) { q = ReduceSum <keepdims = 0> (x, one) }
    >
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_bodies_and_shared_weights(condition):
    weights = RNG.standard_normal((40, 40)).astype(np.float32)
    assert weights.size > LARGE
    model = model_of(BODIES, 13, w=weights, one=np.array([1]))
    after = raised(model, 21)
    assert [node.name for node in after.graph.node] == ["first", "second"]
    feeds = RNG.standard_normal((3, 40)).astype(np.float32), np.array(condition)
    for ours, theirs in zip(run(after, *feeds), run(model, *feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_large_constants_are_never_copied():
    weights = np.zeros((2, LARGE), np.float32)
    graph = gs.import_onnx(model_of("g (float[N,2] x) => (float[N,1024] y, float[2,1024] w) { y = MatMul (x, w) }",
                                    13, w=weights))  # fmt: skip
    constant = graph.tensors()["w"]
    constant.values = weights
    model, held = weightless(graph)
    assert model.ByteSize() < 1000
    assert held["w"] is constant
    bring_to_opset(graph, 21)
    assert graph.tensors()["w"].values is weights
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    assert graph.outputs[1] is graph.nodes[0].inputs[1] is constant
    assert [node.name for node in constant.outputs] == [graph.nodes[0].name]


def test_a_graph_that_is_as_new_stays_as_it_is():
    graph = gs.import_onnx(model_of("g (float[N,2] x) => (float[N,2] y) { y = Relu (x) }", 21))
    node = graph.nodes[0]
    bring_to_opset(graph, 19)
    assert graph.nodes[0] is node
    assert (graph.opset, graph.import_domains[0].version) == (21, 21)


def test_free_dimensions_keep_their_names():
    after = raised(model_of("g (float[N,2,W] x) => (float[N,1,W] y) { y = ReduceMax <axes = [1]> (x) }", 13), 25)
    assert [dim.dim_param or dim.dim_value for dim in after.graph.output[0].type.tensor_type.shape.dim] == ["N", 1, "W"]


def test_group_normalizations_of_before_opset_21_are_not_converted():
    model = model_of("g (float[1,4,2] x) => (float[1,4,2] y) { y = GroupNormalization <num_groups = 2> (x, v, v) }",
                     21, v=VECTOR[:2])  # fmt: skip
    model.opset_import[0].version = 18  # onnx's checker calls this one deprecated, and yet there are models with it
    with pytest.raises(ValueError, match="GroupNormalization of opset 18"):
        bring_to_opset(gs.import_onnx(model), 21)
    bring_to_opset(gs.import_onnx(model), 20)


def test_a_converter_that_gives_up_leaves_the_graph_alone(monkeypatch):
    def refuse(model, version):
        raise RuntimeError("No Adapter\nfor this")

    graph = gs.import_onnx(model_of("g (float[N,2] x) => (float[N,2] y) { y = MatMul (x, w) }", 13,
                                    w=np.zeros((2, 2), np.float32)))  # fmt: skip
    before = gs.export_onnx(graph).SerializeToString()
    monkeypatch.setattr(version_converter, "convert_version", refuse)
    with pytest.raises(ValueError, match=r"opset 13 can't be raised to 21: No Adapter$"):
        bring_to_opset(graph, 21)
    assert gs.export_onnx(graph).SerializeToString() == before
