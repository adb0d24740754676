"""The ends of a network keep their bits, whatever its shape; the rest gets what was asked for."""

from __future__ import annotations

import pytest

from passes.allocate_bits import ends_of, uniform_bits
from passes.placement import place
from passes.targets import ORT_CPU, TENSORRT
from tests.passes.placements import graph_of

SQUARE = (16, 16, 1, 1)
LINE = """g (float[N,16,8,8] x) => (float[N,10] y) {
    a = Conv (x, u) r = Relu (a) b = Conv (r, v) c = Conv (b, w) p = GlobalAveragePool (c) f = Flatten (p)
    g = Gemm (f, m) y = Softmax (g)
}"""


def line():
    return graph_of(LINE, u=SQUARE, v=SQUARE, w=SQUARE, m=(16, 10))


def bits_of(graph, bits, target=ORT_CPU, **options):
    return uniform_bits(graph, place(graph, target), bits, **options)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_first_and_the_last_layer_keep_eight_bits(bits):
    assert bits_of(line(), bits) == {"u": 8, "v": bits, "w": bits, "m": 8}


def test_all_layers_means_all():
    assert bits_of(line(), 3, all_layers=True) == dict.fromkeys("uvwm", 3)


def test_what_was_chosen_for_a_layer_holds_at_the_ends_too():
    chosen = {"Conv_a": 2, "Conv_b": 5, "Softmax_y": 2}
    assert bits_of(line(), 4, chosen=chosen) == {"u": 2, "v": 5, "w": 4, "m": 8}
    assert bits_of(line(), 4, chosen=chosen, all_layers=True) == {"u": 2, "v": 5, "w": 4, "m": 4}


def test_layers_in_float_are_no_ends():
    graph = graph_of(
        """g (float[N,3,8,8] x) => (float[N,3,8,8] y) {
            a = Conv (x, u) b = Conv (a, v) c = Conv (b, w) d = Conv (c, q) y = Conv (d, z)
        }""",
        u=(8, 3, 1, 1), v=(16, 8, 1, 1), w=SQUARE, q=(8, 16, 1, 1), z=(3, 8, 1, 1),
    )  # fmt: skip
    assert set(place(graph, TENSORRT).weights) == set("vwq")  # the others have too few channels
    assert bits_of(graph, 4, TENSORRT) == {"v": 8, "w": 4, "q": 8}
    assert bits_of(graph, 4, ORT_CPU) == {"u": 8, "v": 4, "w": 4, "q": 4, "z": 8}


BRANCHES = {
    "two stems and two heads": (
        """g (float[N,16,8,8] x, float[N,16,8,8] o) => (float[A,B,C,D] y, float[A,B,C,D] z) {
            a = Conv (x, w1) b = Conv (o, w2) s = Add (a, b) c = Conv (s, w3) y = Conv (c, w4) z = Conv (c, w5)
        }""",
        "w1 w2 w4 w5",
    ),
    "a projection around a block": (
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
            a = Conv (x, w1) b = Conv (a, w2) c = Conv (b, w3) d = Conv (a, w4) s = Add (c, d) y = Conv (s, w5)
        }""",
        "w1 w5",
    ),
    "an output from the middle": (
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] c) {
            a = Conv (x, w1) b = Conv (a, w2) c = Relu (b) d = Conv (c, w3) e = Conv (d, w4) y = Conv (e, w5)
        }""",
        "w1 w5",
    ),
    "beside each other": (
        """g (float[N,16,8,8] x) => (float[A,B,C,D] y) {
            a = Conv (x, w1) b = Conv (x, w2) c = Conv (x, w3) d = Conv (x, w4) e = Conv (x, w5)
            y = Concat <axis = 1> (a, b, c, d, e)
        }""",
        "w1 w2 w3 w4 w5",
    ),
}


@pytest.mark.parametrize("case", BRANCHES)
def test_every_way_in_and_every_way_out_has_its_end(case):
    text, ends = BRANCHES[case]
    names = [f"w{k}" for k in range(1, 6)]
    graph = graph_of(text, **dict.fromkeys(names, SQUARE))
    assert bits_of(graph, 4) == {name: 8 if name in ends.split() else 4 for name in names}


def test_a_single_layer_is_both_ends_and_no_layer_has_none():
    graph = graph_of("g (float[N,16,8,8] x) => (float[N,16,8,8] y) { y = Conv (x, w) }", w=SQUARE)
    assert bits_of(graph, 2) == {"w": 8}
    assert ends_of(graph, set()) == set()
