"""Images made by gradients: still images, the same for the same seed, and closer to what the model remembers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.domain import preset
from onnxdfq.images.guides import guides
from onnxdfq.images.inversion import invert, torch_device
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.procedural import procedural

SIZE = 12


def weights(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def model_of(text, **initializers):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
    return onnx.shape_inference.infer_shapes(model)


def normalized(dims="N,3,12,12", turn="t = Identity (x)"):
    """Conv and BatchNormalization that remembers a mean and a deviation no procedural image has."""
    return model_of(
        f"""g (float[{dims}] x) => (float[A,B,C,D] y) {{
            {turn} h = Conv (t, w) n = BatchNormalization (h, one, zero, mean, var) y = Relu (n)
        }}""",
        w=weights(4, 3, 3, 3), one=np.ones(4, np.float32), zero=np.zeros(4, np.float32),
        mean=np.float32([0.5, -0.5, 0.3, 0.0]), var=np.float32([0.1, 0.2, 0.05, 0.1]),
    )  # fmt: skip


def classifier(last=""):
    return model_of(
        f"g (float[N,3,12,12] x) => (float[N,5] y) {{ p = GlobalAveragePool (x) f = Flatten (p) "
        f"{'s' if last else 'y'} = MatMul (f, w) {last} }}",
        w=2 * weights(3, 5),
    )  # fmt: skip


def into(layout="NCHW", batch=None):
    return ModelInput("x", 3, SIZE, SIZE, layout, batch, np.dtype(np.float32))


def starts(count=4):
    return procedural(count, 3, SIZE, SIZE, np.random.default_rng(1))


def inverted(model, count=4, steps=30, seed=0, given=None, **more):
    fed = preset("imagenet", 3, "")
    return invert(model, given or into(), fed, starts(count), steps=steps, seed=seed, device="cpu", **more)


def mismatch(model, pixels):
    """How far the statistics of images are from those that the normalization remembers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("h", 1, None))
    values = Session(copy).run({"x": preset("imagenet", 3, "").to_model(pixels, into())})["h"]
    mean, deviation = guides(model).statistics["h"]
    shift, spread = (values.mean((0, 2, 3)) - mean) / deviation, values.std((0, 2, 3)) / deviation - 1
    return float((shift**2 + spread**2).mean())


def test_results_are_images_of_their_own_in_the_shape_of_the_starts():
    before = starts(4)
    images = inverted(normalized(), steps=5)
    assert images.shape == before.shape
    assert images.dtype == np.float32
    assert np.array_equal(images, np.clip(np.rint(images), 0, 255))
    assert not np.array_equal(images, before)
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4


def test_statistics_come_closer_to_what_the_model_remembers():
    model = normalized()
    before, after = mismatch(model, starts(8)), mismatch(model, inverted(model, 8, 60))
    assert after < 0.4 * before


@pytest.mark.parametrize("last", ["", "y = Softmax (s)"])
def test_a_classifier_is_surer_of_the_inverted_images_and_sees_more_classes_in_them(last):
    model = classifier(last)

    def answers(pixels):
        scores = Session(model).run({"x": preset("imagenet", 3, "").to_model(pixels, into())})["y"]
        chances = scores if last else np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        return chances.max(1).mean(), len(set(chances.argmax(1)))

    before, after = answers(starts(12)), answers(inverted(model, 12, 60))
    assert after[0] > before[0] + 0.05
    assert after[1] > before[1]


def test_images_get_smoother_where_the_model_has_no_wishes():
    model = model_of("g (float[N,3,12,12] x) => (float[N,3,12,12] y) { y = Relu (x) }")
    roughness = [np.abs(np.diff(each, axis=3)).mean() for each in (starts(4), inverted(model, steps=40))]
    assert roughness[1] < 0.9 * roughness[0]


def test_the_seed_decides():
    model = classifier()
    first, again, other = (inverted(model, steps=6, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_step_leaves_the_starts_but_for_what_lies_at_the_ends():
    images = inverted(normalized(), steps=0)
    np.testing.assert_array_equal(images, np.rint(np.clip(starts(4), 0.02 * 255, 0.98 * 255)))


@pytest.mark.parametrize(("count", "batch"), [(4, 4), (5, 2), (1, 3), (7, None)])
def test_every_number_of_images_comes_back_whatever_the_batch(count, batch):
    heard = []
    dims = "N,3,12,12" if batch is None else f"{batch},3,12,12"
    images = inverted(normalized(dims), count, 3, given=into(batch=batch), on_step=lambda *each: heard.append(each))
    assert images.shape == (count, 3, SIZE, SIZE)
    total = 3 * (-(-count // batch) if batch else 1)
    assert heard == [(step, total) for step in range(1, total + 1)]


def test_channels_last_sees_the_same_images():
    last = normalized("N,12,12,3", "t = Transpose <perm = [0,3,1,2]> (x)")
    first, turned = inverted(normalized(), steps=5), inverted(last, steps=5, given=into("NHWC"))
    assert np.abs(first - turned).max() <= 1


def test_starts_and_model_are_left_as_they_were():
    model, given = normalized(), starts(4)
    content, kept = model.SerializeToString(), given.copy()
    invert(model, into(), preset("unit", 3, ""), given, steps=2, seed=0, device="cpu")
    assert model.SerializeToString() == content
    assert np.array_equal(given, kept)


def test_devices():
    assert torch_device("cpu") == "cpu"
    assert torch_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_that_is_not_there_is_refused():
    with pytest.raises(OnnxdfqError, match="torch does not find it"):
        torch_device("cuda")
