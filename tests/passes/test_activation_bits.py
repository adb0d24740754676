"""Activations at the ends of a network keep their bits, those between layers get what was asked for."""

from __future__ import annotations

import pytest

from passes.activation_bits import activation_bits, for_products_alone
from passes.placement import place
from passes.targets import ORT_CPU, QNN, TARGETS, TENSORRT
from tests.passes.placements import graph_of

SQUARE = (16, 16, 1, 1)
LINE = """g (float[N,16,8,8] x) => (float[N,10] y) {
    a = Conv (x, u) r = Relu (a) b = Conv (r, v) c = Conv (b, w) p = GlobalAveragePool (c) f = Flatten (p)
    y = Gemm (f, m)
}"""


def bits_of(graph, bits, target=ORT_CPU, **options):
    return activation_bits(graph, place(graph, target), bits, **options)


def line():
    return graph_of(LINE, u=SQUARE, v=SQUARE, w=SQUARE, m=(16, 10))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_a_layer_in_the_middle_reads_has_the_bits_asked_for(bits):
    assert bits_of(line(), bits) == {"x": 8, "r": bits, "b": bits, "c": 8, "p": 8, "f": 8}
    assert bits_of(line(), bits, TENSORRT) == {"x": 8, "r": bits, "b": bits, "f": 8}


def test_all_layers_means_all_that_a_layer_multiplies_but_the_image():
    assert bits_of(line(), 3, all_layers=True) == {"x": 8, "r": 3, "b": 3, "c": 8, "p": 3, "f": 3}


def test_more_than_eight_bits_are_for_all():
    assert set(bits_of(line(), 16, QNN).values()) == {16}


def test_what_comes_before_every_layer_is_the_image_still():
    graph = graph_of(
        """g (float[1,16,8,8] i) => (float[1,16,8,8] y) {
            n = Mul (i, k) x = Transpose <perm = [0,1,3,2]> (n) a = Conv (x, u) b = Conv (a, v) y = Conv (b, w)
        }""",
        k=(1,), u=SQUARE, v=SQUARE, w=SQUARE,
    )  # fmt: skip
    expected = {"i": 8, "k": 8, "n": 8, "x": 8, "a": 4, "b": 8, "y": 8}
    assert bits_of(graph, 4, QNN) == expected
    assert bits_of(graph, 4, QNN, all_layers=True) == expected | {"b": 4}


def test_what_is_only_added_keeps_eight():
    graph = graph_of(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
            a = Conv (x, t) b = Conv (a, u) s = Add (b, a) c = Conv (s, v) r = Add (c, s) y = Conv (r, w)
        }""",
        t=SQUARE, u=SQUARE, v=SQUARE, w=SQUARE,
    )  # fmt: skip
    assert bits_of(graph, 4) == {"x": 8, "a": 4, "b": 8, "s": 4, "c": 8, "r": 8, "y": 8}


def test_tensors_that_share_a_scale_have_the_most_bits_of_them():
    graph = graph_of(
        """g (float[N,16,8,8] x) => (float[N,32,8,8] y) {
            a = Conv (x, u) b = Conv (a, v) c = Concat <axis = 1> (a, b) y = Conv (c, w)
        }""",
        u=SQUARE, v=SQUARE, w=(32, 32, 1, 1),
    )  # fmt: skip
    assert place(graph, TENSORRT).groups
    assert bits_of(graph, 4, TENSORRT) == {"x": 8, "a": 8, "c": 8}  # c goes into the last layer alone


def test_two_layers_have_nothing_in_the_middle():
    graph = graph_of("g (float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Conv (x, u) y = Conv (a, v) }",
                     u=SQUARE, v=SQUARE)  # fmt: skip
    assert set(bits_of(graph, 2).values()) == {8}


# -- who reads them

RESIDUAL = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
    a = Conv (x, t) r = Relu (a) b = Conv (r, u) s = Add (b, r) d = Relu (s) c = Conv (d, v) e = Add (c, d)
    y = Conv (e, w)
}"""
POOLED = """g (float[N,16,8,8] x) => (float[N,16,4,4] y) {
    a = Conv (x, t) r = Relu (a) m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r) b = Conv (m, u)
    n = Conv <strides = [2,2]> (r, u) k = Add (b, n) s = Add (k, m) c = Conv (s, v) y = Conv (c, w)
}"""
FOUR = {"t": SQUARE, "u": SQUARE, "v": SQUARE, "w": SQUARE}


def readers_of(text, bits, target=ORT_CPU):
    """Who reads each activation before and after, and its bits."""
    graph = graph_of(text, **FOUR)
    placement = place(graph, target)
    widths = activation_bits(graph, placement, bits)
    after = for_products_alone(graph, placement, widths, target)
    return placement, after, widths


@pytest.mark.parametrize("target", [ORT_CPU, TENSORRT])
def test_a_residual_add_reads_float_where_the_layer_reads_few_bits(target):
    before, after, widths = readers_of(RESIDUAL, 4, target)
    assert (widths["r"], widths["d"]) == (4, 4)
    assert after.readers["r"] == {"Conv_b"}
    assert after.readers["d"] == {"Conv_c"}
    assert "Add_s" in before.readers["r"] or target is TENSORRT, "it is the placement that changes"
    assert "b" not in after.tensors, "the other operand of that Add is read in float as well"
    assert after.readers["x"] == before.readers["x"]
    assert after.weights == before.weights


def test_eight_bits_are_read_by_all():
    before, after, _ = readers_of(RESIDUAL, 8)
    assert after.readers == before.readers


def test_pooling_that_keeps_the_scale_reads_few_bits_too():
    before, after, widths = readers_of(POOLED, 4)
    assert any({"r", "m"} <= group for group in before.groups)
    assert (widths["r"], widths["m"]) == (4, 4)
    assert after.readers["r"] == {"MaxPool_m", "Conv_n"}
    assert after.readers["m"] == {"Conv_b"}
    assert "Add_s" in before.readers["m"]


@pytest.mark.parametrize("text", [RESIDUAL, POOLED])
def test_where_everything_is_in_integers_nothing_changes(text):
    everything = [target for target in TARGETS.values() if target.everything]
    assert QNN in everything
    for target in everything:
        before, after, widths = readers_of(text, 4, target)
        assert 4 in widths.values()
        assert after is before
