"""Lines that are there as soon as they are written, and a picture of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxdfq.errors import OnnxdfqError
from onnxdfq.report.curves import COLOURS, curves
from onnxdfq.tune.log import Log


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def inked(png: Path | bytes, colour: str) -> np.ndarray:
    import io

    pixels = np.asarray(Image.open(png if isinstance(png, Path) else io.BytesIO(png)).convert("RGB"))
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return np.argwhere((pixels == wanted).all(2))


def test_every_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "x.jsonl"
    log = Log(path)
    log.begin(method="qimera", path=Path("model"), resumed=0)
    log.write(iteration=1, loss=2.5, kl=float("nan"))
    assert lines_of(path) == [
        {"settings": {"method": "qimera", "path": "model", "resumed": 0}},
        {"iteration": 1, "loss": 2.5, "kl": None},
    ]


def test_a_run_that_goes_on_writes_on(tmp_path: Path) -> None:
    for _ in range(2):
        Log(tmp_path / "x.jsonl").write(iteration=1, loss=1.0)
    assert len(lines_of(tmp_path / "x.jsonl")) == 2


def test_nothing_is_written_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log(None)
    log.begin(method="qimera")
    log.write(loss=1.0)
    log.plot()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OnnxdfqError, match="give another --log"):
        Log(tmp_path / "file" / "x.jsonl").write(loss=1.0)


def test_losses_share_a_panel_and_agreement_has_its_own(tmp_path: Path) -> None:
    log = Log(tmp_path / "x.jsonl")
    for k in range(5):
        log.write(iteration=k, seconds=k, rate=1, student_loss=5 - k, generator_loss=k, top1=90 + k)
    log.plot()
    written = (tmp_path / "x.png").read_bytes()
    assert Image.open(tmp_path / "x.png").height > 400, "two panels"
    assert len(inked(tmp_path / "x.png", COLOURS[1])) > 100, "the second curve of the first panel"
    assert len(inked(tmp_path / "x.png", COLOURS[2])) == 0, "there is no third"
    log.plot()
    assert (tmp_path / "x.png").read_bytes() == written


def test_the_picture_shows_the_newest_run_and_what_it_went_on_from(tmp_path: Path) -> None:
    log = Log(tmp_path / "x.jsonl")
    log.begin(resumed=0)
    log.write(iteration=1, kl=9.0)
    log.begin(resumed=0)
    log.write(iteration=1, kl=3.0)
    log.write(iteration=2, kl=2.5)
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write('{"iteration": 3, "k\n')
    log.begin(resumed=1)
    log.write(iteration=2, kl=2.0)
    log.write(iteration=3, kl=1.0)
    assert log._curves() == {"kl": {"kl": [(1, 3.0), (2, 2.0), (3, 1.0)]}}


def test_a_log_that_holds_nothing_is_drawn_as_such(tmp_path: Path) -> None:
    Log(tmp_path / "x.jsonl").plot()
    assert Image.open(tmp_path / "x.png").width > 100


def test_a_falling_curve_falls_from_left_to_right() -> None:
    drawn = inked(curves({"kl": {"kl": [(0, 2.0), (10, 1.0)]}}, "title"), COLOURS[0])
    line = drawn[drawn[:, 0] > 80]  # below the names
    left, right = line[line[:, 1].argmin()], line[line[:, 1].argmax()]
    assert right[1] - left[1] > 600
    assert right[0] - left[0] > 100


def test_one_point_and_equal_numbers_can_be_drawn() -> None:
    assert len(inked(curves({"kl": {"kl": [(0, 2.0)]}}, "title"), COLOURS[0])) > 5
    assert len(inked(curves({"kl": {"kl": [(0, 2.0), (5, 2.0)]}}, "title"), COLOURS[0])) > 100
