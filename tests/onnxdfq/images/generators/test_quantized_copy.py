"""The quantized copy: few bits inside, the same every time, not far from the model."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnxdfq.engine.ort import Session
from onnxdfq.images.drawn import drawn
from onnxdfq.images.generators.quantized_copy import quantized_copy


def answers(model, subject):
    pixels = subject.domain.to_model(drawn(subject.into, subject.into.batch or 16, 1, 0), subject.into)
    return Session(model).run({"x": pixels})["y"]


def held(model, name):
    return next(numpy_helper.to_array(each) for each in model.graph.initializer if each.name == name)


@pytest.mark.parametrize("batch", [None, 3])
def test_more_bits_are_closer(classifier, batch):
    subject = classifier(batch=batch)
    truth = answers(subject.model, subject)
    errors = [float(((answers(quantized_copy(subject, bits), subject) - truth) ** 2).mean()) for bits in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01 * truth.var()


def test_the_middle_has_the_bits_asked_for_and_weights_stay_in_float(classifier):
    subject = classifier()
    model = quantized_copy(subject, 3)
    codes = held(model, "w2") / held(model, "w2_scale").reshape(-1, 1, 1, 1)
    assert held(model, "w2").dtype == np.float32
    assert 4 < len(np.unique(np.rint(codes))) <= 8
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_it_is_the_same_every_time_and_leaves_the_model_as_it_was(classifier):
    subject = classifier()
    before = subject.model.SerializeToString()
    first, again = (quantized_copy(subject).SerializeToString() for _ in range(2))
    assert first == again
    assert subject.model.SerializeToString() == before
