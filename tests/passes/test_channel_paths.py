"""Who reads a layer's channels, where among its own input channels, and what they pass on the way."""

from __future__ import annotations

import numpy as np
import pytest

from passes.base import Skip
from passes.channel_paths import ChannelPath, Reader, path_of
from tests.passes.conftest import canonical, model_of


def ones(*shape):
    return np.ones(shape, np.float32)


def graph_of(text, *, shape="1,4,8,8", rank=4, **initializers):
    """A graph with a layer A in front: ``a`` is what it writes, 4 channels of a 4-channel input."""
    head = "a = Conv (x, wa)" if len(shape.split(",")) == 4 else "a = MatMul (x, wm)"
    given = {"wa": ones(4, 4, 1, 1), "wm": ones(4, 4), "wb": ones(6, 4, 1, 1), "wd": ones(4, 1, 3, 3), "v": ones(4)}
    out = ",".join("ABCDE"[:rank])
    text = f"g (float[{shape}] x) => (float[{out}] y) {{ {head} {text} }}"
    return canonical(model_of(text, opset=18, **{**given, **initializers}))


def found(text, **options):
    depthwise = options.pop("through_depthwise", True)
    graph = graph_of(text, **options)
    return path_of(graph, graph.nodes[0].name, through_depthwise=depthwise)


PASSED = {
    "nothing": "y = Conv (a, wb)",
    "rectifiers": "r = Relu (a) l = LeakyRelu (r) p = PRelu (l, slope) y = Conv (p, wb)",
    "pools": "m = MaxPool <kernel_shape = [2,2]> (a) p = AveragePool <kernel_shape = [2,2]> (m) y = Conv (p, wb)",
    "identity and dropout": "i = Identity (a) d = Dropout (i) y = Conv (d, wb)",
    "global pool": "p = GlobalAveragePool (a) y = Conv (p, wb)",
    "pad with zeros": "p = Pad (a, pads) y = Conv (p, wb)",
    "resize": "r = Resize <mode = \"linear\"> (a, , scales) y = Conv (r, wb)",
    "clip that is a relu": "r = Clip (a, zero) y = Conv (r, wb)",
    "normalization": "n = BatchNormalization (a, v, v, v, v) r = Relu (n) y = Conv (r, wb)",
    "transposed layer": "r = Relu (a) y = ConvTranspose (r, wt)",
}  # fmt: skip
EXTRAS = {
    "slope": ones(4, 1, 1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "scales": np.array([1, 1, 2, 2], np.float32),
    "zero": np.float32(0), "six": np.float32(6), "wt": ones(4, 6, 1, 1), "one": np.float32(1),
}  # fmt: skip


def only(text, names):
    return {name: np.asarray(value) for name, value in names.items() if f"{name})" in text or f"{name}," in text}


@pytest.mark.parametrize("case", PASSED)
def test_operators_that_a_factor_passes_through_lead_to_the_reader(case):
    path = found(PASSED[case], **only(PASSED[case], EXTRAS))
    layer = "ConvTranspose_y" if "wt" in PASSED[case] else "Conv_y"
    assert path == ChannelPath("Conv_a", (Reader(layer, 0),), (), ())


MATRICES = {
    "flatten": ("p = GlobalAveragePool (a) f = Flatten (p) y = Gemm (f, wm)", "1,4,8,8", 2, "Gemm_y"),
    "reshape": ("p = GlobalAveragePool (a) f = Reshape (p, to) y = Gemm (f, wm)", "1,4,8,8", 2, "Gemm_y"),
    "rows of a matrix": ("f = Reshape (a, to) y = Gemm (f, wm)", "2,3,4", 2, "Gemm_y"),
    "bias and relu": ("b = Add (a, v) r = Relu (b) y = MatMul (r, wm)", "2,3,4", 3, "MatMul_y"),
    "transposed": ("t = Transpose <perm = [0,2,3,1]> (a) y = MatMul (t, wm)", "1,4,8,8", 4, "MatMul_y"),
    "there and back": ("t = Transpose <perm = [0,2,1]> (a) r = Relu (t) u = Transpose <perm = [0,2,1]> (r) "
                       "y = MatMul (u, wm)", "2,3,4", 3, "MatMul_y"),
}  # fmt: skip


@pytest.mark.parametrize("case", MATRICES)
def test_channels_are_followed_from_axis_to_axis(case):
    text, shape, rank, reader = MATRICES[case]
    extras = {"to": np.array([-1, 4])} if "to)" in text else {}
    path = found(text, shape=shape, rank=rank, **extras)
    assert isinstance(path, ChannelPath), path
    assert path.readers == (Reader(reader, 0),)


def test_all_readers_are_found_at_their_offsets_through_concats():
    path = found(
        """b = Conv (x, wb) c = Concat <axis = 1> (b, a) r = Relu (c) d = Concat <axis = -3> (r, b, a)
           e = Conv (a, wb) f = Conv (r, w10) g = Conv (d, w20) h = Add (e, f) y = Add (h, g)""",
        w10=ones(6, 10, 1, 1), w20=ones(6, 20, 1, 1),
    )  # fmt: skip
    assert isinstance(path, ChannelPath)
    assert sorted((reader.layer, reader.offset) for reader in path.readers) == [
        ("Conv_e", 0), ("Conv_f", 6), ("Conv_g", 6), ("Conv_g", 16),
    ]  # fmt: skip


def test_a_depthwise_convolution_is_passed_or_read():
    text = """r = Clip (a, zero, six) d = Conv <group = 4> (r, wd, v) n = BatchNormalization (d, v, v, v, v)
              q = Min (n, slope) y = Conv (q, wb)"""
    extras = {name: np.asarray(EXTRAS[name]) for name in ("zero", "six", "slope")}
    assert found(text, **extras) == ChannelPath("Conv_a", (Reader("Conv_y", 0),), ("Conv_d",), ("Clip_r", "Min_q"))
    assert found(text, through_depthwise=False, **extras) == ChannelPath(
        "Conv_a", (Reader("Conv_d", 0),), (), ("Clip_r",)
    )


def test_a_layer_normalization_is_followed_like_a_layer():
    graph = canonical(model_of(
        "g (float[2,3,4] x) => (float[A,B,C] y) { n = LayerNormalization (x, v, v) y = MatMul (n, w) }",
        v=ones(4), w=ones(4, 5),
    ))  # fmt: skip
    path = path_of(graph, "LayerNormalization_n")
    assert path == ChannelPath("LayerNormalization_n", (Reader("MatMul_y", 0),), (), ())


BLOCKED = {
    "add": ("r = Conv (x, wa) s = Add (a, r) y = Conv (s, wb)",
            "its channels meet those of another branch in Add_s"),
    "constant": ("s = Add (a, one) y = Conv (s, wb)",
                 "its channels are read by Add_s (Add), through which a factor does not pass"),
    "sigmoid": ("s = Sigmoid (a) y = Conv (s, wb)",
                "its channels are read by Sigmoid_s (Sigmoid), through which a factor does not pass"),
    "clip from -1": ("s = Clip (a, minus, six) y = Conv (s, wb)",
                     "its channels are read by Clip_s (Clip), through which a factor does not pass"),
    "computed clip": ("k = Abs (six) s = Clip (a, zero, k) y = Conv (s, wb)",
                      "its channels are read by Clip_s (Clip), through which a factor does not pass"),
    "padded with ones": ("s = Pad (a, pads, one) y = Conv (s, wb)",
                         "its channels are read by Pad_s (Pad), through which a factor does not pass"),
    "resized channels": ("s = Resize (a, , upward) y = Conv (s, w8)",
                         "its channels are read by Resize_s (Resize), through which a factor does not pass"),
    "pixels become channels": ("f = Flatten (a) y = Gemm (f, w256)",
                               "its channels are read by Flatten_f (Flatten), through which a factor does not pass"),
    "indices": ("p, i = MaxPool <kernel_shape = [2,2]> (a) k = Cast <to = 1> (i) q = Add (p, k) y = Conv (q, wb)",
                "its channels are read by MaxPool_p (MaxPool), through which a factor does not pass"),
    "itself twice": ("s = Mul (a, a) y = Conv (s, wb)",
                     "its channels are read by Mul_s (Mul), through which a factor does not pass"),
    "slope": ("r = Relu (x) s = PRelu (r, a) y = Conv (s, wb)",
              "its channels are read by PRelu_s (PRelu), through which a factor does not pass"),
    "output": ("y = Relu (a)", "its channels are read from y, an output of the model"),
    "computed weights": ("k = Abs (wb) y = Conv (a, k)",
                         "the weights of Conv_y, which reads its channels, are not constant"),
    "another axis": ("y = MatMul (a, w88)", "MatMul_y does not read its channels as input channels"),
    "concat of pixels": ("s = Concat <axis = 3> (a, x) y = Conv (s, wb)",
                         "its channels meet those of another branch in Concat_s"),
    "unknown offset": ("k = Reshape (x, shape) s = Concat <axis = 1> (k, a) y = Conv (s, w8)",
                       "how many channels k has, before its own in Concat_s, is not known"),
    "depthwise of two layers": ("s = Concat <axis = 1> (a, x) d = Conv <group = 8> (s, wd8) y = Conv (d, w8)",
                                "Conv_d is depthwise, and reads the channels of other layers too"),
    "depthwise with a computed bias": ("k = Abs (v) d = Conv <group = 4> (a, wd, k) y = Conv (d, wb)",
                                       "the bias of Conv_d, which its channels pass, is not constant"),
    "clip of two layers": ("s = Concat <axis = 1> (a, x) c = Clip (s, zero, six) y = Conv (c, w8)",
                           "Clip_c clips the channels of other layers too"),
}  # fmt: skip
BLOCKS = EXTRAS | {
    "minus": np.float32(-1), "upward": np.array([1, 2, 1, 1], np.float32), "w8": ones(6, 8, 1, 1), "w88": ones(8, 8),
    "w256": ones(256, 4), "wd8": ones(8, 1, 3, 3),
}  # fmt: skip


@pytest.mark.parametrize("case", BLOCKED)
def test_what_ends_a_path_is_named(case):
    text, reason = BLOCKED[case]
    if case == "unknown offset":
        text = text.replace("k = Reshape (x, shape)", "z = Shape (x) k = Reshape (x, z)")
    rank = 2 if "Gemm" in text else 4
    graph = graph_of(text, rank=rank, **only(text, BLOCKS))
    if case == "unknown offset":
        graph.tensors()["k"].shape = None
    assert path_of(graph, "Conv_a") == Skip("Conv_a", "channel-path", reason)


@pytest.mark.parametrize(
    ("text", "layer", "reason"),
    [
        ("y = Relu (x)", "Relu_y", "Relu has no weights"),
        ("k = Abs (w) a = Conv (x, k) y = Conv (a, w)", "Conv_a", "its weights are not constant"),
        ("k = Abs (v) a = Conv (x, w, k) y = Conv (a, w)", "Conv_a", "its bias is not constant"),
        ("a = MatMul (x, s) y = Conv (a, w)", "MatMul_a", "its weights are not a matrix"),
        ("a = LayerNormalization <axis = 2> (x, m) y = Conv (a, w)", "LayerNormalization_a",
         "it normalizes more than one axis"),
    ],
)  # fmt: skip
def test_a_path_begins_at_a_layer_with_constant_weights(text, layer, reason):
    given = {"w": ones(4, 4, 1, 1), "v": ones(4), "s": ones(1, 4, 4, 4), "m": ones(4, 4)}
    graph = canonical(model_of(f"g (float[1,4,4,4] x) => (float[A,B,C,D] y) {{ {text} }}", **given))
    assert path_of(graph, layer) == Skip(layer, "channel-path", reason)


def test_a_matrix_product_of_unknown_rank_and_an_unknown_name():
    graph = graph_of("y = MatMul (a, wm)", shape="2,3,4", rank=3)
    graph.tensors()["a"].shape = None
    assert path_of(graph, "MatMul_a") == Skip("MatMul_a", "channel-path", "the shape of a is not known")
    with pytest.raises(KeyError, match="nobody"):
        path_of(graph, "nobody")


def test_an_output_before_the_normalization_ends_the_path():
    text = """g (float[1,4,8,8] x) => (float[A,B,C,D] y, float[E,F,G,H] a) {
        a = Conv (x, w) n = BatchNormalization (a, v, v, v, v) y = Conv (n, w) }"""
    graph = canonical(model_of(text, w=ones(4, 4, 1, 1), v=ones(4)))
    path = path_of(graph, "Conv_a")
    assert isinstance(path, Skip)
    assert path.reason == "its channels are read from a, an output of the model"


def test_a_layer_that_nobody_reads_has_no_path():
    graph = graph_of("r = Relu (a) y = Conv (r, wb)")
    graph.nodes[-1].inputs[0] = graph.inputs[0]
    assert path_of(graph, "Conv_a") == Skip("Conv_a", "channel-path", "no layer reads its channels")
