"""The ends of a network keep their bits, whatever its shape; the rest gets what was asked for."""

from __future__ import annotations

import pytest

from passes.allocate_bits import (
    WIDTHS,
    bits_within_average,
    bits_within_size,
    ends_of,
    possible_bits,
    uniform_bits,
)
from passes.placement import place
from passes.targets import ORT_CPU, ORT_CPU_AVX2, TENSORRT
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


# -- within a budget

ELEMENTS = {"a": 100, "b": 1000, "c": 1000, "d": 50}
DAMAGES = {layer: {bits: factor * 4.0**-bits for bits in WIDTHS} for layer, factor in (("b", 1.0), ("c", 100.0))}
POSSIBLE = {"a": (8,), "b": WIDTHS, "c": WIDTHS, "d": (8,)}


def test_what_is_settled_has_one_width_and_no_width_is_beyond_the_target():
    graph = line()
    placement = place(graph, ORT_CPU)
    settled = {"Conv_a": (8,), "Conv_b": WIDTHS, "Conv_c": WIDTHS, "Softmax_y": (8,)}
    found = possible_bits(graph, placement, ORT_CPU)
    assert [found[site.layer] for site in placement.weights.values()] == list(settled.values())
    chosen = {next(iter(found)): 3}
    assert next(iter(possible_bits(graph, placement, ORT_CPU, chosen=chosen).values())) == (3,)
    assert set(possible_bits(graph, placement, ORT_CPU, all_layers=True).values()) == {WIDTHS}
    assert set(possible_bits(graph, placement, ORT_CPU_AVX2).values()) == {(7,), (2, 3, 4, 6, 7)}


def test_on_average_the_sensitive_layer_gets_the_bits_that_the_other_can_spare():
    assert bits_within_average(ELEMENTS, POSSIBLE, DAMAGES, 4) == {"a": 8, "b": 2, "c": 6, "d": 8}
    assert bits_within_average(ELEMENTS, POSSIBLE, DAMAGES, 4.5) == {"a": 8, "b": 3, "c": 6, "d": 8}
    assert bits_within_average(ELEMENTS, POSSIBLE, DAMAGES, 8) == dict.fromkeys("abcd", 8)
    assert bits_within_average(ELEMENTS, POSSIBLE, DAMAGES, 2) == {"a": 8, "b": 2, "c": 2, "d": 8}


@pytest.mark.parametrize(
    ("containers", "share", "b", "c"),
    [((2, 4), 0.25, 8, 8), ((2, 4), 0.2, 4, 8), ((2, 4), 0.17, 2, 8), ((2, 4), 0.11, 2, 4), ((4,), 0.2, 4, 8),
     ((4,), 0.17, 4, 4), ((), 0.25, 8, 8)],
)  # fmt: skip
def test_bytes_in_the_file_are_what_counts_and_a_container_is_filled(containers, share, b, c):
    assert bits_within_size(ELEMENTS, POSSIBLE, DAMAGES, share, containers) == {"a": 8, "b": b, "c": c, "d": 8}


@pytest.mark.parametrize(("containers", "least"), [((2, 4), 0.0756), ((4,), 0.1338), ((), 0.25)])
def test_the_smallest_share_is_named_and_is_possible(containers, least):
    with pytest.raises(ValueError, match=rf"can't be stored in 0.07 of their float32 bytes: {least} is the least"):
        bits_within_size(ELEMENTS, POSSIBLE, DAMAGES, 0.07, containers)
    bits_within_size(ELEMENTS, POSSIBLE, DAMAGES, least, containers)


def test_the_smallest_average_is_named():
    with pytest.raises(ValueError, match=r"can't have 1.5 bits on average: 2 is the least"):
        bits_within_average(ELEMENTS, POSSIBLE, DAMAGES, 1.5)


def test_where_everything_is_settled_there_is_nothing_to_choose():
    settled = {"a": (8,), "b": (3,)}
    assert bits_within_average(ELEMENTS, settled, {}, 1) == {"a": 8, "b": 3}
    assert bits_within_size(ELEMENTS, settled, {}, 0.25, (4,)) == {"a": 8, "b": 3}
