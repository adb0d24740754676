"""The domain of the input is read off the model: from statistics, from its answers, from where it comes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper, parser

from onnxdfq.engine.ort import Session
from onnxdfq.images.domain import domain, preset
from onnxdfq.images.infer_domain import infer_domain
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.procedural import procedural
from passes.base import run_passes
from passes.canonicalize import CANONICAL

RNG = np.random.default_rng(0)
SIZE = 32


@pytest.fixture(scope="module")
def images():
    return {channels: procedural(64, channels, SIZE, SIZE, np.random.default_rng(channels)) for channels in (1, 3)}


def model_of(text, **initializers):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
    return model


def filters(channels, out=32, size=3):
    """Filters of which most see brightness and colour and a quarter sees edges only."""
    weight = RNG.standard_normal((out, channels, size, size)).astype(np.float32)
    weight[: out // 4] -= weight[: out // 4].mean((1, 2, 3), keepdims=True)
    return weight * 0.2


def into(channels=3, layout="NCHW", dtype=np.float32):
    return ModelInput("x", channels, SIZE, SIZE, layout, None, np.dtype(dtype))


def never(values):
    raise AssertionError("the statistics decide, the model need not run")


def inferred(model, given, pixels, run=never):
    graph = gs.import_onnx(model)
    run_passes(graph, CANONICAL)
    return infer_domain(graph, given, pixels, run)


def trained(fed, images, channels=3, layout="NCHW", bias=False):
    """Conv and BatchNormalization whose statistics are those of images fed in a domain, as training leaves them."""
    weight = filters(channels)
    shift = (300 if bias else 0) * weight.sum((1, 2, 3))  # as if it took off a mean that no domain has
    dims = f"N,{channels},H,W" if layout == "NCHW" else f"N,H,W,{channels}"
    turn = "t = Transpose <perm = [0,3,1,2]> (x)" if layout == "NHWC" else "t = Identity (x)"
    start = f"{turn} h = Conv <strides = [2,2]> (t, w, b)"
    layer = Session(model_of(f"g (float[{dims}] x) => (float[A,B,C,D] h) {{ {start} }}", w=weight, b=shift))
    values = layer.run({"x": fed.to_model(images, into(channels, layout))})["h"]
    return model_of(
        f"g (float[{dims}] x) => (float[A,B,C,D] y) {{ {start} n = BatchNormalization (h, g, z, m, v) y = Relu (n) }}",
        w=weight, b=shift, g=np.ones(32, np.float32), z=np.zeros(32, np.float32), m=values.mean((0, 2, 3)),
        v=values.var((0, 2, 3)),
    )  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", ["raw255", "pm1", "imagenet", "unit", "caffe"])
def test_the_first_normalization_tells_the_domain(images, name, layout, bias):
    model = trained(preset(name, 3, "truth"), images[3], layout=layout, bias=bias)
    found = inferred(model, into(layout=layout), images[3][:4])
    assert found.name == name
    assert found.mean == preset(name, 3, "").mean
    assert "BatchNormalization" in found.why


@pytest.mark.parametrize("name", ["raw255", "pm1", "unit"])
def test_grey_models_tell_it_too(images, name):
    assert inferred(trained(preset(name, 1, "truth"), images[1], 1), into(1), images[1][:4]).name == name


def test_an_unusual_scale_is_fitted(images):
    truth = domain("odd", (116.0,), (0.02,), "RGB", 3, "truth")  # values of some thousands
    found = inferred(trained(truth, images[3]), into(), images[3][:4])
    assert found.name == "fitted"
    assert found.std[0] == pytest.approx(0.02, rel=0.4)
    assert "like no usual form" in found.why


@pytest.mark.parametrize("name", ["raw255", "pm1", "unit"])
def test_a_normalization_of_the_input_itself_tells_it(images, name):
    values = preset(name, 3, "truth").to_model(images[3], into())
    model = model_of(
        "g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = BatchNormalization (x, g, z, m, v) }",
        g=np.ones(3, np.float32), z=np.zeros(3, np.float32), m=values.mean((0, 2, 3)), v=values.var((0, 2, 3)),
    )  # fmt: skip
    assert inferred(model, into(), images[3][:4]).name == name


def test_a_uint8_input_takes_pixels():
    found = inferred(model_of("g (uint8[N,3,H,W] x) => (float[N,3,H,W] y) { y = Cast <to = 1> (x) }"),
                     into(dtype=np.uint8), np.zeros((1, 3, SIZE, SIZE), np.float32))  # fmt: skip
    assert found.name == "raw255"
    assert "uint8" in found.why


# -- models that keep no statistics are asked


def plain(channels=3, conv="Conv", bias=None):
    more = {} if bias is None else {"b": bias}
    return model_of(
        f"g (float[N,{channels},H,W] x) => (float[A,B,C,D] y) {{ y = {conv} (x, w{', b' if more else ''}) }}",
        w=filters(channels), **more,
    )  # fmt: skip


def deaf_below(scale):
    """Answers of a model that tells images apart only when they come at the right scale, and always stays tame."""

    def run(values):
        seen = np.tanh(values.reshape(len(values), -1)[:, :10] / scale)
        return seen * 3 + np.arange(10) * (1 - np.abs(seen).mean()) * 2

    return run


def test_answers_that_depend_on_the_image_only_at_0_to_255_tell_the_scale(images):
    assert inferred(plain(), into(), images[3][:8], deaf_below(100)).name == "caffe"


def test_biases_that_take_off_a_mean_tell_that_it_was_not_taken_off_before(images):
    weight = filters(3)
    model = model_of("g (float[N,3,H,W] x) => (float[A,B,C,D] y) { y = Conv (x, w, b) }", w=weight,
                     b=-110 * weight.sum((1, 2, 3)))  # fmt: skip
    assert inferred(model, into(), images[3][:8], deaf_below(100)).name == "raw255"


def linear(values):
    return values.reshape(len(values), -1)[:, :10]


def one_answer(values):
    return values.mean((1, 2, 3))[:, None]


def overflowing(values):
    return np.where(np.abs(values).max() > 50, np.nan, values.reshape(len(values), -1)[:, :10])


def growing(values):
    return np.arange(10) + 0.5 * values.reshape(len(values), -1)[:, :10] * (np.abs(values).max() > 50)


@pytest.mark.parametrize("run", [linear, one_answer, overflowing, growing])
def test_answers_that_explode_or_say_nothing_leave_it_to_the_origin(images, run):
    assert inferred(plain(), into(), images[3][:8], run).name == "imagenet"


def test_where_the_file_comes_from_decides_the_rest(images):
    assert inferred(plain(1), into(1), images[1][:8], linear).name == "unit"
    for conv in ('Conv <auto_pad = "SAME_UPPER">', "Conv <strides = [2,2], pads = [0,0,1,1]>"):
        assert inferred(plain(conv=conv), into(), images[3][:8], linear).name == "pm1"
    assert inferred(plain(conv="Conv <pads = [1,1,1,1]>"), into(), images[3][:8], linear).name == "imagenet"
    turned = "t = Transpose <perm = [0,3,1,2]> (x) y = Conv (t, w)"
    last = model_of(f"g (float[N,H,W,3] x) => (float[A,B,C,D] y) {{ {turned} }}", w=filters(3))
    found = inferred(last, into(layout="NHWC"), images[3][:8], linear)
    assert found.name == "pm1"
    assert "TensorFlow" in found.why


def test_statistics_that_are_computed_do_not_count(images):
    model = model_of(
        """g (float[N,3,H,W] x) => (float[A,B,C,D] y) {
            h = Conv (x, w) m = Neg (k) y = BatchNormalization (h, v, v, m, v)
        }""",
        w=filters(3), k=np.zeros(32, np.float32), v=np.ones(32, np.float32),
    )  # fmt: skip
    onnx.checker.check_model(model)
    assert inferred(model, into(), images[3][:8], linear).name == "imagenet"
