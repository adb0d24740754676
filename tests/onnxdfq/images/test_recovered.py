"""What a folded normalization knew of its input comes back from procedural images, up to what images can tell."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
from onnx import numpy_helper, parser

from onnxdfq.engine.ort import Session, tapped
from onnxdfq.images.domain import preset
from onnxdfq.images.guides import guides
from onnxdfq.images.losses import statistics_mismatch
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.procedural import procedural
from onnxdfq.images.recovered import NARROWEST, recovered
from onnxdfq.images.source import Subject
from passes.fold_batchnorm import FoldBatchNorm

SIZE = 16
DOMAIN = preset("imagenet", 3, "")
SIZES = {
    "w": (6, 3, 3, 3), "b": (6,), "v": (8, 6, 3, 3), "d": (6, 1, 3, 3), "p": (6, 6, 1, 1), "t": (6, 4, 2, 2),
    "m": (6, 5), "g": (5, 5), "u": (8, 4, 3, 3), "q": (5, 12, 1, 1),
}  # fmt: skip
NORM = ("gamma", "beta", "mean", "var")


def weights(name, seed=0):
    shape = SIZES[name]
    rng = np.random.default_rng([seed, *name.encode()])
    return (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def model_of(body, dims=f"N,3,{SIZE},{SIZE}", out="A,B", **more):
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]>\ng (float[{dims}] x) => (float[{out}] y) {{ {body} }}'
    )
    read = {name for node in model.graph.node for name in node.input}
    values = {name: weights(name) for name in SIZES if name in read} | more
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    return onnx.shape_inference.infer_shapes(model)


def subject(model, layout="NCHW", batch=None):
    into = ModelInput("x", 3, SIZE, SIZE, layout, batch, np.dtype(np.float32))
    return Subject(model, into, DOMAIN, guides(model))


HEAD = "a = GlobalAveragePool (r) f = Flatten (a) y = MatMul (f, m)"


TWO_LAYERS = """h = Conv <pads = [1,1,1,1]> (x, w) n = BatchNormalization (h, gamma1, beta1, mean1, var1) s = Relu (n)
                k = Conv (s, v) o = BatchNormalization (k, gamma2, beta2, mean2, var2) r = Relu (o)
                a = GlobalAveragePool (r) f = Flatten (a) y = MatMul (f, z)"""


@pytest.fixture(scope="module")
def norms():
    """What training would have left in two normalizations, had it seen procedural images, others than ``recovered``
    takes."""
    rng = np.random.default_rng(5)
    found = {"z": np.ones((8, 5))}
    for layer, size in ((1, 6), (2, 8)):
        gamma = rng.uniform(0.3, 2, size) * rng.choice([-1, 1], size)
        for name, value in zip(NORM, (gamma, rng.normal(0, 1, size), np.zeros(size), np.ones(size)), strict=True):
            found[f"{name}{layer}"] = value
    found = {name: value.astype(np.float32) for name, value in found.items()}
    pixels = procedural(96, 3, SIZE, SIZE, np.random.default_rng(77))
    for layer, tensor in ((1, "h"), (2, "k")):
        values = measured(model_of(TWO_LAYERS, **found), tensor, pixels)
        found |= {f"mean{layer}": values.mean((0, 2, 3)), f"var{layer}": values.var((0, 2, 3))}
    return found


def measured(model, tensor, pixels):
    return Session(tapped(model, [tensor])).run({"x": DOMAIN.to_model(pixels, subject(model).into)})[tensor]


def folded(model):
    graph = gs.import_onnx(model)
    FoldBatchNorm()(graph)
    return onnx.shape_inference.infer_shapes(gs.export_onnx(graph))


def test_what_folding_lost_is_recovered(norms):
    model = model_of(TWO_LAYERS, **norms)
    assert recovered(subject(model)) == {}  # nothing is lost yet
    found = recovered(subject(folded(model)))
    assert sorted(found) == ["n", "o"]
    for layer, name in ((1, "n"), (2, "o")):
        gamma, beta = np.abs(norms[f"gamma{layer}"]), norms[f"beta{layer}"]
        mean, std = found[name]
        assert mean.shape == std.shape == gamma.shape
        assert mean.dtype == std.dtype == np.float32
        assert (np.abs(mean - beta) / gamma).max() < 0.3
        assert np.abs(np.log(std / gamma)).max() < 0.3


INNER = {
    "depthwise": ("c = Conv (x, w, b) e = Conv <group = 6> (c, d) r = Conv (e, p)" + HEAD, {"c": 6, "e": 6, "r": 6}),
    "add": ("c = Conv (x, w) e = Conv (c, p) r = Add (c, e)" + HEAD, {"c": 6, "e": 6}),
    "concat": ("c = Conv (x, w) e = Conv (c, p) j = Concat <axis = 1> (c, e) y = Conv (j, q)", {"c": 6, "e": 6}),
    "transposed": ("c = Conv (x, w) e = ConvTranspose (c, t) y = Conv (e, u)", {"c": 6, "e": 4}),
    "matrices": ("r = Conv (x, w) a = GlobalAveragePool (r) f = Flatten (a) i = Gemm (f, m) y = Gemm (i, g)", {"r": 6}),
    "a head on the side": ("c = Conv (x, w) side = Conv (c, p) s = Sigmoid (side) y = Conv (c, v)", {"c": 6}),
}  # fmt: skip
NOTHING = {
    "one layer, whose output is the result": "c = Conv (x, w) y = Sigmoid (c)",
    "no layer": "y = Relu (x)",
    "matrices only": "a = GlobalAveragePool (x) f = Flatten (a) y = Gemm <transB = 1> (f, k)",
}


@pytest.mark.parametrize("case", INNER)
def test_every_convolution_that_a_layer_follows_has_statistics(case):
    body, channels = INNER[case]
    out = "A,B" if "Flatten" in body else "A,B,C,D"
    found = recovered(subject(model_of(body, out=out)))
    assert {name: mean.size for name, (mean, std) in found.items()} == channels


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_to_recover(case):
    body = NOTHING[case]
    out = "A,B" if "Flatten" in body else "A,B,C,D"
    assert recovered(subject(model_of(body, out=out, k=np.ones((5, 3), np.float32)))) == {}


def test_the_numbers_are_always_the_same(norms):
    model = folded(model_of(TWO_LAYERS, **norms))
    first, again = recovered(subject(model)), recovered(subject(model))
    assert all(np.array_equal(first[name], again[name]) for name in ("n", "o"))


def test_a_channel_that_never_moves_keeps_a_width_of_its_layer():
    still = weights("w")
    still[2] = 0
    body = "r = Conv (x, w, b)" + HEAD
    mean, std = recovered(subject(model_of(body, w=still)))["r"]
    others = np.delete(std, 2)
    assert mean[2] == pytest.approx(weights("b")[2], rel=1e-4)
    assert std[2] == pytest.approx(NARROWEST * np.sqrt(np.square(std).mean()), rel=0.02)
    assert others.min() > std[2]


def test_a_layer_that_never_moves_is_left_out():
    body = "c = Conv (x, w, b) r = Conv (c, p)" + HEAD
    assert recovered(subject(model_of(body, w=np.zeros(SIZES["w"], np.float32)))) == {}


def test_a_fixed_batch_and_channels_last_say_the_same():
    body = "c = Conv ({0}, w) r = Conv (c, p)" + HEAD
    free = recovered(subject(model_of(body.format("x"))))
    fixed = recovered(subject(model_of(body.format("x"), f"16,3,{SIZE},{SIZE}"), batch=16))
    turned = "i = Transpose <perm = [0,3,1,2]> (x) " + body.format("i")
    last = recovered(subject(model_of(turned, f"N,{SIZE},{SIZE},3"), "NHWC"))
    for other in (fixed, last):
        for name, pair in free.items():
            np.testing.assert_allclose(other[name], pair, rtol=1e-3, atol=1e-4)


def test_images_with_the_spectrum_of_photographs_agree_with_them_and_noise_does_not(norms):
    model = folded(model_of(TWO_LAYERS, **norms))
    aims = recovered(subject(model))
    noise = np.random.default_rng(3).integers(0, 256, (64, 3, SIZE, SIZE)).astype(np.float32)
    drawn = procedural(64, 3, SIZE, SIZE, np.random.default_rng(4))

    def mismatch(pixels):
        inner = {name: torch.tensor(measured(model, name, pixels)) for name in aims}
        return float(statistics_mismatch(inner, {name: tuple(map(torch.tensor, pair)) for name, pair in aims.items()}))

    assert mismatch(drawn) < 0.05
    assert mismatch(noise) > 0.2
