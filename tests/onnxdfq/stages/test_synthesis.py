"""Images as runs ask for them: which shards are in the cache, and what the clock decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxdfq
from onnxdfq.api import Synthesized
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.schedule import Schedule
from onnxdfq.images.source import Subject
from onnxdfq.images.sources import KINDS
from onnxdfq.stages import synthesis
from tests.onnxdfq.images.numbered import Numbered

pytestmark = pytest.mark.usefixtures("quick")
Synth = Callable[..., tuple[Synthesized, list[int]]]


@pytest.fixture
def synth(small: Path, monkeypatch: pytest.MonkeyPatch) -> Synth:
    """Make images in shards of four, by a source that takes no time; with the numbers of the shards that were made."""

    def run(count: int = 8, model: Path = small, **options: Any) -> tuple[Synthesized, list[int]]:
        built: list[Numbered] = []

        def build(subject: Subject, steps: int) -> Numbered:
            built.append(Numbered(4, steps, (3, subject.into.height, subject.into.width)))
            return built[-1]

        for name in ("inversion", "gdfq"):
            monkeypatch.setitem(KINDS, name, replace(KINDS[name], build=build))
        done = onnxdfq.synth(model, count, **{"source": "inversion", "cache": small.parent / "cache"} | options)
        assert done is not None
        return done, [shard for source in built for shard in source.made]

    return run


def test_a_second_run_finds_what_the_first_one_made(synth: Synth) -> None:
    first, made = synth(8)
    assert made == [0, 1]
    assert "cache" not in first.report.images
    more, made = synth(14)
    assert made == [2, 3]
    assert more.report.images == "numbered; 2 of 4 shards from the cache"
    np.testing.assert_array_equal(more.images[:8], first.images)
    fewer, made = synth(3)
    assert made == []
    np.testing.assert_array_equal(fewer.images, first.images[:3])


def test_fewer_images_than_the_model_takes_at_once_are_made_but_not_judged(synth: Synth, small: Path) -> None:
    model = onnx.load(small)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, small)
    done, _ = synth(1)
    assert len(done.images) == 1
    assert done.report.quality is None
    assert done.report.quality_in_words == "not known: the model takes 4 images at once"


def test_nothing_is_kept_without_a_cache(synth: Synth, small: Path) -> None:
    assert synth(cache=None)[1] == synth(cache=None)[1] == [0, 1]
    assert [path.name for path in small.parent.iterdir()] == ["small.onnx"]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"source": "gdfq"}, {"effort": 3}, {"domain": "caffe"}, {"domain": "raw255"},
     {"input_shape": (1, 3, 16, 24)}],
    ids=str,
)  # fmt: skip
def test_images_hang_on(change: dict[str, Any], synth: Synth, small: Path) -> None:
    model = onnx.load(small)
    for side in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[side].Clear()  # free, but 16x16 if not given
    onnx.save(model, small)
    usual = {"domain": "imagenet", "input_shape": (1, 3, 16, 16)}
    synth(**usual)
    assert synth(**usual | change)[1] == [0, 1]
    assert synth(**usual)[1] == synth(**usual | change)[1] == []


def test_images_hang_on_the_weights_and_not_on_where_the_model_lies(synth: Synth, small: Path, tmp_path: Path) -> None:
    synth()
    model = onnx.load(small)
    onnx.save(model, tmp_path / "copy.onnx")
    assert synth(model=tmp_path / "copy.onnx")[1] == []
    weights = model.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
    onnx.save(model, tmp_path / "other.onnx")
    assert synth(model=tmp_path / "other.onnx")[1] == [0, 1]


def test_images_hang_on_those_that_they_begin_with(synth: Synth, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    for name, images in (("a", pixels), ("b", pixels[::-1])):
        np.savez(tmp_path / f"{name}.npz", images=images)
    synth()
    assert synth(images=tmp_path / "a.npz")[1] == [0, 1]
    assert synth(images=tmp_path / "b.npz")[1] == [0, 1]
    assert synth(images=tmp_path / "a.npz")[1] == []


def test_they_do_not_hang_on_what_is_quantized_with_them(synth: Synth, small: Path) -> None:
    assert synth(12)[1] == [0, 1, 2]
    for bits in (8, 4):
        done = onnxdfq.quantize(small, bits=bits, target="ort-cpu", cache=small.parent / "cache")
        assert "3 of 3 shards from the cache" in done.report.images


# -- time budgets


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Schedule]:
    """What measuring finds, one after the other."""
    found = [Schedule(30, 8), Schedule(20, 100)]
    monkeypatch.setattr(synthesis, "within", lambda *arguments: found.pop(0))
    return found


def test_what_the_clock_decided_stays_so_that_a_killed_run_can_go_on(synth: Synth, clock: list[Schedule]) -> None:
    first, _ = synth(time_budget=60)
    again, made = synth(time_budget=60)
    assert made == []
    assert len(clock) == 1
    np.testing.assert_array_equal(again.images, first.images)


@pytest.mark.parametrize("change", [{"count": 100}, {"time_budget": 61}, {"cache": None}], ids=str)
def test_it_was_decided_for_this_number_and_this_time_only(
    change: dict[str, Any], synth: Synth, clock: list[Schedule]
) -> None:
    synth(count=8, time_budget=60)
    done, made = synth(**{"count": 100, "time_budget": 60} | change)
    assert len(done.images) == 100
    assert len(made) == 25  # in other steps: none that the cache has
    assert clock == []


def test_a_time_that_is_too_short_is_a_notice(synth: Synth, clock: list[Schedule]) -> None:
    done, _ = synth(count=20, time_budget=60)
    assert len(done.images) == 8
    assert done.report.notices[-1] == "60 s are enough for 8 images of the 20 wanted"


# -- which source


def test_a_source_that_cannot_work_names_those_that_can(small: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), small)
    with pytest.raises(OnnxdfqError, match=r"--source inversion: .* nor class scores.*choose from procedural$"):
        onnxdfq.synth(small, source="inversion")
    with pytest.raises(OnnxdfqError, match=r"--source gdfq: the model is no classifier.*choose from procedural$"):
        onnxdfq.synth(small, source="gdfq")


def test_without_a_wish_there_are_images_for_any_model_and_the_reason_is_told(small: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), small)
    done = onnxdfq.synth(small, 5, effort=3, cache=small.parent / "cache")
    assert done is not None
    assert done.images.shape == (5, 3, 8, 8)
    assert done.report.images.startswith("procedural (the model has neither")
    assert not (small.parent / "cache").exists()
