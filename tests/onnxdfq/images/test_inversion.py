"""Images made by gradients: still images, the same for the same seed, and closer to what the model remembers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdfq.engine.ort import Session
from onnxdfq.images.aims import Aims
from onnxdfq.images.domain import preset
from onnxdfq.images.guides import guides
from onnxdfq.images.inversion import Inversion
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.procedural import procedural
from onnxdfq.images.source import Subject

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
        w=2 * weights(3, 5),    )  # fmt: skip


def into(layout="NCHW", batch=None):
    return ModelInput("x", 3, SIZE, SIZE, layout, batch, np.dtype(np.float32))


def subject(model, given=None, like=None, **aims):
    return Subject(model, like or into(), preset("imagenet", 3, ""), guides(model), given=given, aims=Aims(**aims))


def starts(count=4):
    return procedural(count, 3, SIZE, SIZE, np.random.default_rng(1))


def inverted(model, count=4, steps=30, seed=0, like=None, **aims):
    """``count`` images, begun with ``starts``."""
    source = Inversion(subject(model, starts(count), like, **aims), steps=steps)
    shards = [source.make(seed, shard).pixels for shard in range(-(-count // source.size))]
    return np.concatenate(shards)[:count]


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

    before, after = answers(starts(12)), answers(inverted(model, 12, 200))
    assert after[0] > before[0] + 0.05
    assert after[1] >= before[1]


def test_images_get_smoother_where_the_model_has_no_wishes():
    model = model_of("g (float[N,3,12,12] x) => (float[N,3,12,12] y) { y = Relu (x) }")
    roughness = [np.abs(np.diff(each, axis=3)).mean() for each in (starts(4), inverted(model, steps=40))]
    assert roughness[1] < 0.9 * roughness[0]


def test_the_seed_decides():
    source = Inversion(subject(classifier()), steps=6)
    first, again, other = (source.make(seed, 0).pixels for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_step_leaves_the_starts_but_for_what_lies_at_the_ends():
    images = inverted(normalized(), steps=0)
    np.testing.assert_array_equal(images, np.rint(np.clip(starts(4), 0.02 * 255, 0.98 * 255)))


@pytest.mark.parametrize("batch", [2, None])
def test_a_shard_is_as_large_as_the_batch_and_every_step_is_told(batch):
    heard = []
    dims = "N,3,12,12" if batch is None else f"{batch},3,12,12"
    source = Inversion(subject(normalized(dims), like=into(batch=batch)), steps=3)
    made = source.make(0, 0, lambda *each: heard.append(each))
    assert made.pixels.shape == (source.size, 3, SIZE, SIZE)
    assert source.size > 8  # statistics of a few images say little, whatever the model takes at once
    assert batch is None or source.size % batch == 0
    assert [each[:2] for each in heard] == [(1, 3), (2, 3), (3, 3)]
    assert heard[-1][2] < heard[0][2]


def test_shards_differ_and_hang_on_nothing_made_before():
    one, another = (Inversion(subject(classifier(), like=into(batch=4), swing=True), steps=3) for _ in "ab")
    first, second = one.make(0, 0), one.make(0, 1)
    alone = another.make(0, 1)
    assert not np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(second.pixels, alone.pixels)
    assert np.array_equal(second.labels, alone.labels)


def test_boundary_images_belong_to_two_classes_and_the_model_sees_both():
    model = classifier()
    made = Inversion(subject(model, boundary=0.5), steps=200).make(0, 0)
    np.testing.assert_allclose(made.labels.sum(1), 1, rtol=1e-5)
    assert (made.labels[:32].max(1) == 1).all()
    pairs = made.labels[32:]
    assert ((pairs > 0).sum(1) <= 2).all()
    assert ((pairs > 0).sum(1) == 2).any()
    scores = Session(model).run({"x": preset("imagenet", 3, "").to_model(made.pixels, into())})["y"][32:]
    wanted = np.take_along_axis(scores, np.argsort(-pairs, 1)[:, :2], 1).mean()
    assert wanted > scores.mean() + 0.5


def test_hard_images_stay_less_sure():
    model = classifier()
    made = Inversion(subject(model, hard=0.5), steps=300).make(0, 0)
    scores = Session(model).run({"x": preset("imagenet", 3, "").to_model(made.pixels, into())})["y"]
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    own = chances[np.arange(64), made.labels]
    assert np.quantile(own[:32], 0.9) < np.quantile(own[32:], 0.9) - 0.1


def test_a_low_pass_and_crops_leave_images_images():
    images = inverted(normalized(), steps=5, cutoff=0.25, crops=True)
    assert np.array_equal(images, np.clip(np.rint(images), 0, 255))
    plain = inverted(normalized(), steps=5)
    assert np.abs(np.diff(images, axis=3)).mean() < np.abs(np.diff(plain, axis=3)).mean()


def test_it_stops_where_nothing_is_gained_any_more():
    heard = []
    model = model_of("g (float[N,3,12,12] x) => (float[N,3,12,12] y) { y = Relu (x) }")
    flat = np.full((4, 3, SIZE, SIZE), 100, np.uint8)
    Inversion(subject(model, flat), steps=500).make(0, 0, lambda *each: heard.append(each))
    assert len(heard) < 100


def test_channels_last_sees_the_same_images():
    last = normalized("N,12,12,3", "t = Transpose <perm = [0,3,1,2]> (x)")
    first, turned = inverted(normalized(), steps=5), inverted(last, steps=5, like=into("NHWC"))
    assert np.abs(first - turned).max() <= 1


def test_starts_and_model_are_left_as_they_were():
    model, given = normalized(), starts(4)
    content, kept = model.SerializeToString(), given.copy()
    Inversion(subject(model, given), steps=2).make(0, 0)
    assert model.SerializeToString() == content
    assert np.array_equal(given, kept)
