"""The quality score tells good images from bad ones without a real one."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdfq.images.domain import preset
from onnxdfq.images.guides import guides
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.procedural import procedural
from onnxdfq.images.quality import quality
from onnxdfq.images.source import Subject


def subject(text, **initializers):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(each), name) for name, each in initializers.items()
    )
    model = onnx.shape_inference.infer_shapes(model)
    into = ModelInput("x", 3, 16, 16, "NCHW", None, np.dtype(np.float32))
    return Subject(model, into, preset("unit", 3, ""), guides(model))


def normalized(mean=0.5, deviation=0.25):
    """A 1x1 convolution that passes its input on, and what normalization remembers of it."""
    return subject(
        """g (float[N,3,16,16] x) => (float[N,3,16,16] y) {
            h = Conv (x, w) y = BatchNormalization (h, one, zero, mean, var) }""",
        w=np.eye(3)[:, :, None, None], one=np.ones(3), zero=np.zeros(3),
        mean=np.full(3, mean), var=np.full(3, deviation**2 - 1e-5),
    )  # fmt: skip


def classifier(sharpness):
    """Sees which of three colours is the brightest."""
    return subject(
        "g (float[N,3,16,16] x) => (float[N,3] y) { p = GlobalAveragePool (x) f = Flatten (p) y = MatMul (f, w) }",
        w=sharpness * np.eye(3),
    )


def colours(*brightest):
    images = np.zeros((len(brightest), 3, 16, 16), np.float32)
    for image, colour in zip(images, brightest, strict=True):
        image[colour] = 255
    return images


def test_statistics_that_are_those_of_training_are_worth_one_and_others_less():
    rng = np.random.default_rng(0)
    good = np.clip(rng.normal(0.5, 0.25, (32, 3, 16, 16)), 0, 1) * 255
    same = quality(normalized(good.mean() / 255, good.std() / 255), good)
    assert same.statistics == pytest.approx(1, abs=0.01)
    assert same.known
    assert same.classes is None
    assert same.value == same.statistics
    # deviation half of what is remembered: (1/2 - 1)^2; mean one deviation off: 1
    half = quality(normalized(good.mean() / 255, 2 * good.std() / 255), good)
    assert half.statistics == pytest.approx(np.exp(-0.25), abs=0.01)
    off = quality(normalized((good.mean() + good.std()) / 255, good.std() / 255), good)
    assert off.statistics == pytest.approx(np.exp(-1), abs=0.01)


def test_sure_answers_of_all_classes_are_worth_one_and_those_of_one_class_nothing():
    assert quality(classifier(100), colours(0, 1, 2)).classes == pytest.approx(1, abs=0.01)
    assert quality(classifier(100), colours(1, 1, 1)).classes == pytest.approx(0, abs=0.01)
    assert quality(classifier(100), colours(0, 0, 1, 1)).classes == pytest.approx(np.log(2) / np.log(3), abs=0.01)


def test_unsure_answers_are_worth_little():
    assert quality(classifier(0.1), colours(0, 1, 2)).classes < 0.01


def test_a_model_with_nothing_to_judge_by_says_so():
    found = quality(subject("g (float[N,3,16,16] x) => (float[N,3,16,16] y) { y = Relu (x) }"), colours(0, 1))
    assert found.value is None
    assert "not known" in found.describe()


def test_recovered_statistics_stand_in_where_none_are_left():
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 3, 3, 3)), "v": rng.standard_normal((2, 4, 3, 3))}
    text = "g (float[N,3,16,16] x) => (float[N,2,12,12] y) { h = Conv (x, w) r = Relu (h) y = Conv (r, v) }"
    noise = np.rint(rng.uniform(0, 255, (16, 3, 16, 16))).astype(np.float32)
    drawn = procedural(16, 3, 16, 16, np.random.default_rng(1))
    first, second = (quality(subject(text, **weights), each) for each in (noise, drawn))
    assert not first.known
    assert first.statistics < second.statistics
