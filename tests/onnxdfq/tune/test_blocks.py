"""Where graphs are cut into blocks, written down."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxdfq.tune.blocks import Block, find_blocks
from tests.passes.placements import graph_of

SAME, KERNEL = (4, 4, 1, 1), {"w": (4, 4, 1, 1)}
GRAPHS = {
    "a plain chain: its layers, an activation behind each": (
        """g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
            a = Conv(x, w) r = Relu(a) b = Conv(r, w) s = Sigmoid(b) y = Conv(s, w)
        }""",
        ["x r a", "r s b", "s y y"],
    ),
    "residual": (
        """g (float[N,4,8,8] x) => (float[N,3] y) {
            a = Conv(x, w) r = Relu(a)
            b = Conv(r, w) c = Relu(b) d = Conv(c, w) s = Add(d, r) t = Relu(s)
            e = Conv(t, w) f = Relu(e) g = Conv(f, w) h = Conv(t, w) u = Add(g, h) v = Relu(u)
            p = GlobalAveragePool(v) q = Flatten(p) y = Gemm<transB = 1>(q, m)
        }""",
        ["x r a", "r t b d", "t v e g h", "v y y"],
    ),
    "inverted residual": (
        """g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
            a = Conv(x, w)
            b = Conv(a, w) c = Clip(b, zero, six) d = Conv<group = 4>(c, k) e = Clip(d, zero, six) f = Conv(e, w)
            s = Add(a, f)
            h = Conv(s, w) y = Clip(h, zero, six)
        }""",
        ["x a a", "a s b d f", "s y h"],
    ),
    "halves of a transformer layer": (
        """g (float[N,4,8] x) => (float[N,4,8] y) {
            a = MatMul(x, n)
            q = MatMul(a, n) j = MatMul(a, n) v = MatMul(a, n) kt = Transpose<perm = [0, 2, 1]>(j)
            sc = MatMul(q, kt) pr = Softmax<axis = -1>(sc) o = MatMul(pr, v) po = MatMul(o, n) s = Add(po, a)
            up = MatMul(s, n) g = Relu(up) dn = MatMul(g, n) y = Add(dn, s)
        }""",
        ["x a a", "a s q j v po", "s y up dn"],
    ),
    "pooling goes forward, a flattened end too": (
        """g (float[N,4,8,8] x) => (float[N,3] y) {
            a = Conv(x, w) r = Relu(a) m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) b = Conv(m, w)
            c = Relu(b) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm<transB = 1>(f, m2)
        }""",
        ["x r a", "r c b", "c y y"],
    ),
    "what comes last goes back, for nothing is behind it": (
        "g (float[N,4,8,8] x) => (float[N,4,1,1] y) { a = Conv(x, w) r = Relu(a) y = GlobalAveragePool(r) }",
        ["x y a"],
    ),
    "two inputs join first": (
        """g (float[N,4,8,8] x, float[N,4,8,8] z) => (float[N,4,8,8] y) {
            a = Conv(x, w) b = Conv(z, w) s = Add(a, b) r = Relu(s) c = Conv(r, w) y = Conv(c, w)
        }""",
        ["s c c", "c y y"],
    ),
    "two outputs: nothing hangs on one tensor behind the first": (
        """g (float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z) {
            a = Conv(x, w) r = Relu(a) y = Conv(r, w) b = Conv(r, w) z = Conv(b, w)
        }""",
        ["x r a"],
    ),
}  # fmt: skip
HELD = {"w": SAME, "k": (4, 1, 1, 1), "m": (3, 4), "m2": (3, 4), "n": (8, 8), "zero": np.float32(0),
        "six": np.float32(6)}  # fmt: skip


def cut(text: str, *left_out: str) -> list[str]:
    """Start, end and what the layers write, as text."""
    used = {name: value for name, value in HELD.items() if f"{name})" in text or f", {name}," in text}
    graph = graph_of(text, **used)
    products = [node for node in graph.nodes if node.op in ("Conv", "Gemm", "MatMul")]
    layers = {node.name for node in products if isinstance(node.inputs[1], gs.Constant)} - set(left_out)
    found = find_blocks(graph, layers)
    assert all(isinstance(block, Block) for block in found)
    written = {node.name: node.outputs[0].name for node in graph.nodes}
    return [" ".join([block.start, block.end, *(written[name] for name in block.layers)]) for block in found]


@pytest.mark.parametrize("name", GRAPHS)
def test_golden_blocks(name: str) -> None:
    text, expected = GRAPHS[name]
    assert cut(text) == expected


def test_layers_in_float_are_passed_over() -> None:
    text, _ = GRAPHS["a plain chain: its layers, an activation behind each"]
    assert cut(text, "Conv_b") == ["x s a", "s y y"]


def test_no_layers_no_blocks() -> None:
    text, _ = GRAPHS["residual"]
    assert find_blocks(graph_of(text, w=SAME, m=(3, 4)), set()) == []
