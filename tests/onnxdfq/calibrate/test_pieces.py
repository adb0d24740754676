"""A graph in pieces computes what it computes as a whole, with whatever has changed in front of a piece by then."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxdfq.calibrate.pieces import behind_layers, inputs_of_layers
from onnxdfq.engine.ort import Session, tapped
from passes.base import run_passes
from passes.insert_qdq import InsertQDQ
from passes.placement import WEIGHTED, place
from passes.plan import decide
from passes.targets import ORT_CPU, TENSORRT
from tests.passes.conftest import canonical, model_of

RNG = np.random.default_rng(10)
MAPS = "g (float[N,16,6,6] x) => (float[N,16,6,6] y)"


def weights(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


SQUARE = (16, 16, 1, 1)
CASES = {  # text, shapes of weights, of an image
    "chain": (f"{MAPS} {{ a = Conv (x, u) r = Relu (a) y = Conv (r, v) }}", {"u": SQUARE, "v": SQUARE}, (16, 6, 6)),
    "residual": (
        f"{MAPS} {{ a = Conv (x, u) r = Relu (a) b = Conv (r, v) s = Add (b, x) t = Relu (s) y = Conv (t, w) }}",
        {"u": SQUARE, "v": SQUARE, "w": SQUARE}, (16, 6, 6),
    ),
    "branches of unequal length": (
        f"""{MAPS} {{ p = Abs (x) q = Neg (p) r = Abs (q) a = Conv (r, u) b = Conv (x, v) c = Relu (b) d = Conv (c, w)
            y = Add (a, d) }}""",
        {"u": SQUARE, "v": SQUARE, "w": SQUARE}, (16, 6, 6),
    ),
    "two layers read one tensor, the input too": (
        f"{MAPS} {{ a = Conv (x, u) b = Conv (x, v) c = Mul (a, b) d = Conv (c, w) y = Add (d, a) }}",
        {"u": SQUARE, "v": SQUARE, "w": SQUARE}, (16, 6, 6),
    ),
    "classifier": (
        """g (float[N,16,6,6] x) => (float[N,4] y) {
            a = Conv (x, u) t = ConvTranspose (a, v) p = GlobalAveragePool (t) f = Flatten (p) k = Gemm (f, m)
            y = MatMul (k, n)
        }""",
        {"u": SQUARE, "v": (16, 16, 2, 2), "m": (16, 16), "n": (16, 4)}, (16, 6, 6),
    ),
    "computed from constants": (
        f"{MAPS} {{ h = Exp (k) a = Conv (x, u) s = Mul (a, h) b = Conv (s, v) y = Mul (b, h) }}",
        {"u": SQUARE, "v": SQUARE, "k": (1, 16, 1, 1)}, (16, 6, 6),
    ),
}  # fmt: skip


def graph_of(case, target=None):
    text, shapes, size = CASES[case]
    graph = canonical(model_of(text, **{name: weights(*shape) for name, shape in shapes.items()}))
    batches = [{"x": RNG.standard_normal((count, *size)).astype(np.float32)} for count in (3, 1)]
    if target:
        names = list(place(graph, target).tensors)
        run_passes(graph, [InsertQDQ(decide(graph, dict.fromkeys(names, (-4.0, 4.0)), target, 3))])
    return graph, batches


def layers_of(graph):
    return [node.name for node in graph.nodes if node.op in WEIGHTED]


def whole(graph, names, batches):
    """Tensors of the whole graph, by name a list of what each batch gives."""
    session = Session(tapped(gs.export_onnx(graph), [name for name in names if name != "x"]))
    return [{"x": batch["x"], **session.run(batch)} for batch in batches]


def agree(found, right):
    """Equal but for what was half-way between two codes: fused kernels add up in another order."""
    apart = np.abs(found - right)
    assert (apart > 1e-4).mean() < 0.1
    assert apart.max() < 0.2


@pytest.mark.parametrize("target", [None, TENSORRT, ORT_CPU], ids=["float", "tensorrt", "ort-cpu"])
@pytest.mark.parametrize("case", CASES)
def test_every_layer_reads_what_it_reads_in_the_whole_graph(case, target):
    graph, batches = graph_of(case, target)
    names = layers_of(graph)
    first = {node.name: node.inputs[0].name for node in graph.nodes if node.name in names}
    expected = whole(graph, sorted(set(first.values())), batches)
    seen = []
    for layer, values in inputs_of_layers(graph, names, batches):
        seen.append(layer.name)
        assert len(values) == len(batches)
        for found, right in zip(values, expected, strict=True):
            agree(found, right[first[layer.name]])
    assert seen == names
    assert [list(batch) for batch in batches] == [["x"], ["x"]]


def test_layers_come_in_the_order_that_was_asked_for_and_no_others():
    graph, batches = graph_of("branches of unequal length", TENSORRT)
    for order in (["Conv_a", "Conv_b", "Conv_d"], ["Conv_b", "Conv_a", "Conv_d"], ["Conv_b", "Conv_d", "Conv_a"],
                  ["Conv_d", "Conv_a"], ["Conv_a"], []):  # fmt: skip
        first = {node.name: node.inputs[0].name for node in graph.nodes if node.name in order}
        expected = whole(graph, sorted(set(first.values())), batches)
        found = {layer.name: values for layer, values in inputs_of_layers(graph, order, batches)}
        assert list(found) == order
        for name, values in found.items():
            for value, right in zip(values, expected, strict=True):
                agree(value, right[first[name]])


@pytest.mark.parametrize("target", [None, TENSORRT], ids=["float", "tensorrt"])
def test_what_is_changed_in_a_layer_is_seen_by_those_behind_it(target):
    graph, batches = graph_of("residual", target)
    names = layers_of(graph)
    found = {}
    for layer, values in inputs_of_layers(graph, names, batches):
        found[layer.inputs[0].name] = values
        source = layer.inputs[1]
        held = source if isinstance(source, gs.Constant) else source.inputs[0].inputs[0].inputs[0].inputs[0]
        held.values = -0.5 * held.values
        layer.inputs.append(gs.Constant(f"{layer.name}_bias", np.full(16, 0.3, np.float32)))
    for batch, right in enumerate(whole(graph, list(found), batches)):
        for name, values in found.items():
            agree(values[batch], right[name])


def test_a_constant_behind_q_and_dq_belongs_to_the_layer_that_reads_it():
    """Weights are asked for when their layer runs, and not before."""
    graph, batches = graph_of("chain", TENSORRT)
    pieces = inputs_of_layers(graph, ["Conv_a", "Conv_y"], batches)
    layer, _ = next(pieces)
    last = next(node for node in graph.nodes if node.name == "Conv_y")
    last.inputs[1].inputs[0].inputs[0].inputs[0].inputs[0].values[:] = np.nan  # of no concern to what comes before it
    layer.inputs[1].inputs[0].inputs[0].inputs[0].inputs[0].values[:] = 0
    _, values = next(pieces)
    np.testing.assert_array_equal(values[0], np.zeros((3, 16, 6, 6)))
    assert next(pieces, None) is None


def test_what_only_a_branch_reads_is_there_for_it():
    text = """g (float[N,16] x) => (float[N,16] y) {
        p = Abs (x) a = MatMul (x, u) s = ReduceSum <keepdims = 0> (a) z = Cast <to = 9> (s)
        i = If (z) <then_branch = t () => (float[N,16] f) { f = Neg (p) },
                    else_branch = e () => (float[N,16] g) { g = Identity (p) }>
        y = MatMul (i, v)
    }"""
    graph = canonical(model_of(text, u=weights(16, 16), v=weights(16, 16)))
    batches = [{"x": RNG.standard_normal((3, 16)).astype(np.float32)}]
    expected = -np.abs(batches[0]["x"])
    found = {layer.name: values for layer, values in inputs_of_layers(graph, layers_of(graph), batches)}
    np.testing.assert_array_equal(found["MatMul_y"][0], expected)
    pieces = behind_layers(graph, [node for node in graph.nodes if node.op == "MatMul"])
    assert pieces[1].needs == {"p", "a"}


def test_only_what_is_still_needed_is_held():
    graph, batches = graph_of("chain")
    pieces = inputs_of_layers(graph, layers_of(graph), batches)
    next(pieces)
    next(pieces)
    assert [set(held) for held in pieces.gi_frame.f_locals["alive"]] == [{"r"}, {"r"}]


@pytest.mark.parametrize("target", [None, TENSORRT, ORT_CPU], ids=["float", "tensorrt", "ort-cpu"])
@pytest.mark.parametrize("case", CASES)
def test_pieces_behind_layers_one_after_the_other_are_the_graph_up_to_the_last_layer(case, target):
    graph, batches = graph_of(case, target)
    layers = [node for node in graph.nodes if node.op in WEIGHTED]
    outputs = [layer.outputs[0].name for layer in layers]
    pieces = behind_layers(graph, layers)
    assert [piece.nodes[-1] for piece in pieces] == layers
    assert sum(len(piece.nodes) for piece in pieces) == graph.nodes.index(layers[-1]) + 1
    read_later = [set(outputs).union(*(each.needs for each in pieces[k + 1 :])) for k in range(len(pieces))]
    sessions = [Session(piece.model(graph, sorted(piece.makes & read)))
                for piece, read in zip(pieces, read_later, strict=True)]  # fmt: skip
    for batch, right in zip(batches, whole(graph, outputs, batches), strict=True):
        held = dict(batch)
        for piece, session in zip(pieces, sessions, strict=True):
            assert set(session.inputs) == piece.needs
            held.update(session.run({name: held[name] for name in session.inputs}))
        for name in outputs:
            agree(held[name], right[name])


def test_a_piece_does_not_take_tensors_from_the_graph():
    graph, _ = graph_of("residual", TENSORRT)
    before = gs.export_onnx(graph).SerializeToString()
    for piece in behind_layers(graph, [node for node in graph.nodes if node.op in WEIGHTED]):
        piece.model(graph, [piece.nodes[-1].outputs[0].name])
    assert gs.export_onnx(graph).SerializeToString() == before
