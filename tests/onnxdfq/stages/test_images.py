"""Images that calibrate and those held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxdfq.config import Options
from onnxdfq.console import Progress
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.model_input import ModelInput
from onnxdfq.model_file import read_model
from onnxdfq.report.report import Report
from onnxdfq.run import GIVEN_TIMES, MOST_IMAGES, Run
from onnxdfq.stages.images import make_images


def divided(small: Path, given: np.ndarray, batch: int | None = None) -> Run:
    """A run that has these images, divided."""
    run = Run(Options(), Progress(), read_model(small), Report("", 0, {}))
    run.into = ModelInput("image", 3, 16, 16, "NCHW", batch, np.dtype(np.float32))
    run.given = given
    make_images(run)
    return run


def numbered(count: int) -> np.ndarray:
    """Images that each have their number in all pixels."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 16, 16), np.uint8)


@pytest.mark.parametrize("count", [2, 3, 5, 24, 60])
def test_every_image_is_used_once_and_a_third_is_held_out(count: int, small: Path) -> None:
    run = divided(small, numbered(count))
    both = np.concatenate([run.calibration, run.held_out])[:, 0, 0, 0]
    assert sorted(both.tolist()) == list(range(count))
    assert len(run.held_out) == max(count // 3, 1)
    assert (
        run.report.images == f"{len(run.calibration)} for calibration, {len(run.held_out)} held out; of {count} given"
    )


def test_images_in_order_of_their_class_are_held_out_from_every_class(small: Path) -> None:
    run = divided(small, numbered(60))
    for part, each in ((run.held_out, 2), (run.calibration, 4)):
        assert (np.bincount(part[:, 0, 0, 0] // 6, minlength=10) == each).all()


def test_of_many_images_some_are_taken_evenly(small: Path) -> None:
    run = divided(small, np.arange(5000, dtype=np.uint16)[:, None, None, None] * np.ones((1, 3, 1, 1), np.uint16))
    both = np.sort(np.concatenate([run.calibration, run.held_out])[:, 0, 0, 0].astype(int))
    assert len(both) == GIVEN_TIMES * MOST_IMAGES * 3 // 2
    assert both[0] == 0
    assert both[-1] == 4999
    assert set(np.diff(both)) <= {6, 7}
    assert run.report.images.endswith("of 5000 given")


def test_a_fixed_batch_is_full(small: Path) -> None:
    run = divided(small, numbered(27), batch=4)
    assert len(run.held_out) == 8
    assert len(run.calibration) == 19
    assert [len(each["image"]) for each in _batches(run)] == [4] * 4


def _batches(run: Run) -> list[dict[str, np.ndarray]]:
    from onnxdfq.images.domain import preset

    run.domain = preset("unit", 3, "")
    return run.batches(run.calibration)


@pytest.mark.parametrize(("count", "batch", "said"), [
    (1, None, "1 images are too few. give two or more"),
    (7, 4, "7 images are too few. the model takes 4 at once, and as many are held out"),
])  # fmt: skip
def test_too_few_images(count: int, batch: int | None, said: str, small: Path) -> None:
    with pytest.raises(OnnxdfqError) as raised:
        divided(small, numbered(count), batch)
    assert str(raised.value) == said
