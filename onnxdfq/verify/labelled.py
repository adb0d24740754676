"""Accuracy on labelled images that a user has: a folder with one folder per class, or an npz."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.files import read_images
from onnxdfq.images.model_input import ModelInput
from onnxdfq.verify.agreement import is_scores


def read_labelled(source: Path, into: ModelInput) -> tuple[np.ndarray, np.ndarray]:
    """RGB or grey pixels [N, C, H, W] uint8 at the model's size, and classes [N]: see read_images.

    Raises OnnxdfqError when there is nothing usable.
    """
    pixels, labels = read_images(source, into, labelled=True)
    assert labels is not None
    return pixels, labels


def accuracy(session: Session, batches: Iterable[Mapping[str, np.ndarray]], labels: np.ndarray) -> float:
    """Top-1 in percent of the first output against labels [N]. Raises OnnxdfqError when it is no vector of scores."""
    scores = [next(iter(outputs.values())) for outputs in session.stream(batches)]
    if not scores:
        raise OnnxdfqError("--eval has fewer images than the model takes at once")
    if not is_scores(scores[0]):
        raise OnnxdfqError("--eval needs a classifier; the first output is no vector of scores", "leave --eval out")
    predicted = np.concatenate([each.reshape(len(each), -1) for each in scores]).argmax(1)
    return 100 * float((predicted == labels[: len(predicted)]).mean())
