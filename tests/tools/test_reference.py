"""The reference model that ships is the one its README describes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from digits import held_out, normalize, training

MODEL = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"


def test_digits_are_8_bit_images_and_the_same_ones_are_always_held_out():
    pixels, labels = held_out()
    assert (pixels.shape, pixels.dtype, labels.shape) == ((450, 1, 32, 32), np.uint8, (450,))
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert set(labels) == set(range(10))
    assert np.array_equal(pixels, held_out()[0])


def test_nothing_held_out_is_trained_on():
    seen, unseen = ({image.tobytes() for image in part()[0]} for part in (training, held_out))
    assert len(training()[1]) == 1347
    assert not seen & unseen


def test_normalize_maps_black_and_white_to_minus_one_and_one():
    assert normalize(np.array([0, 255], np.uint8)).tolist() == [-1, 1]


def test_model_keeps_its_batchnorm_and_depthwise_convolutions():
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)
    groups = [
        attribute.i
        for node in model.graph.node
        if node.op_type == "Conv"
        for attribute in node.attribute
        if attribute.name == "group"
    ]
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == len(groups) == 17
    assert sum(group > 1 for group in groups) == 5
    assert any(node.op_type == "Add" for node in model.graph.node)


@pytest.mark.parametrize("batch", [1, 450])
def test_model_reads_held_out_digits(batch):
    pixels, labels = held_out()
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    images = normalize(pixels)
    scores = [session.run(None, {"image": images[at : at + batch]})[0] for at in range(0, len(images), batch)]
    assert np.mean(np.concatenate(scores).argmax(1) == labels) >= 0.98
