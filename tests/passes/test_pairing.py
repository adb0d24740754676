"""Real blocks pair as people would pair them, and what stays alone says why."""

from __future__ import annotations

import numpy as np
import pytest

from passes.pairing import find_pairs
from passes.placement import WEIGHTED
from tests.passes.conftest import canonical, model_of

SIZES = {
    "w": (4, 4, 1, 1), "k": (4, 4, 3, 3), "d": (4, 1, 3, 3), "wide": (24, 4, 1, 1), "d24": (24, 1, 3, 3),
    "narrow": (4, 24, 1, 1), "w8": (4, 8, 1, 1), "m": (4, 10), "v": (4,),
}  # fmt: skip
PAD = "<pads = [1,1,1,1]>"


def paired(body, ends=(), layers=None):
    """Pairs as {low: high} by the names of the tensors that the layers write, the skips, and the pairing."""
    used = {name: np.ones(size, np.float32) for name, size in SIZES.items() if f"{name})" in body or f"{name}," in body}
    used |= {"zero": np.zeros((), np.float32), "six": np.full((), 6, np.float32)} if "Clip" in body else {}
    model = model_of(f"g (float[1,4,8,8] x) => (float[A,B,C,D] y) {{ {body} y = Abs (out) }}", **used)
    graph = canonical(model)
    every = {node.name for node in graph.nodes if node.op in WEIGHTED}
    pairing = find_pairs(graph, every if layers is None else layers, ends)
    assert all(skip.rule == "pairing" for skip in pairing.skips)
    pairs = {pair.low[5:]: " ".join(name[5:] for name in pair.high) for pair in pairing.pairs}
    return pairs, {skip.node[5:]: skip.reason for skip in pairing.skips}, pairing


BLOCKS = {
    "basic": (f"a = Conv {PAD} (x, k) r = Relu (a) b = Conv {PAD} (r, k) s = Conv (x, w) t = Add (b, s) out = Relu (t)",
              {"a": "b"}, {"s": "its channels meet those of another branch in Add_t"}),
    "basic with normalization": (f"a = Conv {PAD} (x, k) n = BatchNormalization (a, v, v, v, v) r = Relu (n) "
                                 f"b = Conv {PAD} (r, k) m_ = BatchNormalization (b, v, v, v, v) t = Add (m_, x) "
                                 "out = Relu (t)", {"a": "b"}, {}),
    "bottleneck": (f"a = Conv (x, w) r = Relu (a) b = Conv {PAD} (r, k) q = Relu (b) c = Conv (q, w) out = Add (c, x)",
                   {"b": "c"}, {"a": "Conv_b, which reads its channels, holds more weights and is low instead"}),
    "bottleneck with a small middle": ("a = Conv (x, wide) b = Conv <group = 24, pads = [1,1,1,1]> (a, d24) "
                                       "e = Conv (b, narrow) f = Conv (e, w) out = Add (f, x)",
                                       {"a": "e"}, {"f": "its channels meet those of another branch in Add_out"}),
    "plain chain": ("a = Conv (x, w) b = Conv (a, w) p = MaxPool <kernel_shape = [2,2]> (b) c = Conv (p, w) "
                    "out = Conv (c, w)", {"a": "b", "c": "out"}, {}),
    "inverted residual": ("a = Conv (x, wide) r = Clip (a, zero, six) b = Conv <group = 24, pads = [1,1,1,1]> (r, d24) "
                          "q = Clip (b, zero, six) c = Conv (q, narrow) out = Add (c, x)", {"a": "c"}, {}),
    "separable chain": ("o = Conv <group = 4, pads = [1,1,1,1]> (x, d) a = Conv (o, w) "
                        "e = Conv <group = 4, pads = [1,1,1,1]> (a, d) out = Conv (e, w)",
                        {"a": "out"}, {"o": "it is depthwise: few weights, and each of them counts"}),
    "fire": ("s = Conv (x, w) a = Conv (s, w) b = Conv (s, w) c = Concat <axis = 1> (a, b) out = Conv (c, w8)",
             {"s": "a b"}, {"out": "its channels are read by Abs_y (Abs), through which a factor does not pass"}),
    "two branches into one": ("a = Conv (x, w) b = Conv (x, w) c = Concat <axis = 1> (a, b) out = Conv (c, w8)",
                              {"a": "out", "b": "out"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_pair_as_expected(case):
    body, expected, reasons = BLOCKS[case]
    pairs, skips, _ = paired(body)
    assert (pairs, skips) == (expected, reasons)


def test_branches_of_different_weight_do_not_make_a_reader_high_and_low():
    """a leaves the low bits to c, its heavier reader; b, which c reads too, has to do so as well."""
    pairs, skips, _ = paired(
        f"a = Conv (x, w) b = Conv {PAD} (x, k) j = Concat <axis = 1> (a, b) c = Conv (j, w8) e = Conv (c, w) "
        "out = Add (e, x)"
    )
    assert pairs == {"c": "e"}
    assert skips == {
        "a": "Conv_c, which reads its channels, holds more weights and is low instead",
        "b": "Conv_c, which reads its channels, is low itself",
    }


def test_ends_are_never_low_and_their_bits_are_not_counted():
    body = "a = Conv (x, w) b = Conv (a, w) out = Conv (b, w)"
    pairs, skips, pairing = paired(body, ends={"Conv_a", "Conv_out"})
    assert (pairs, skips) == ({"b": "out"}, {})
    assert pairing.bits(2, 6) == {"Conv_b": 2}


def test_bits_of_low_and_high_layers_and_of_depthwise_ones_between_them():
    _, _, pairing = paired(BLOCKS["inverted residual"][0])
    assert pairing.bits(2, 6) == {"Conv_a": 2, "Conv_b": 6, "Conv_c": 6}
    (pair,) = pairing.pairs
    assert (pair.path.through, pair.path.clips) == (("Conv_b",), ("Clip_r", "Clip_q"))


def test_a_layer_left_in_float_may_be_the_high_one_but_gets_no_bits():
    body = "a = Conv (x, w) b = Conv (a, w) out = Conv (b, w)"
    pairs, _, pairing = paired(body, layers={"Conv_a", "Conv_out"})
    assert pairs == {"a": "b"}
    assert pairing.bits(4, 8) == {"Conv_a": 4}
    assert [skip.node for skip in pairing.skips] == ["Conv_out"]
