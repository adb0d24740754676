"""Steps within a time: on a clock that only a source moves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from onnxdfq.images import schedule
from onnxdfq.images.domain import preset
from onnxdfq.images.guides import Guides
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.schedule import PROBE, Schedule, within
from onnxdfq.images.source import Batch, OnStep, Subject
from onnxdfq.images.sources import Kind
from tests.onnxdfq.images.numbered import Numbered

INTO = ModelInput("x", 3, 4, 5, "NCHW", None, np.dtype(np.float32))
SUBJECT = Subject(None, INTO, preset("unit", 3, ""), Guides({}, 0))  # type: ignore[arg-type]  # no one reads the model


@dataclass(frozen=True)
class Costs:
    """Seconds that a source of ten images takes."""

    build: float = 8.0
    start: float = 1.5
    step: float = 0.1
    end: float = 0.5
    size: int = 10

    def spent(self, chosen: Schedule, processes: int = 1) -> float:
        """For a probe and all the images."""
        turns = -(-chosen.images // (self.size * processes))
        return 2 * self.build + (2 + turns) * (self.start + self.end) + (2 * PROBE + turns * chosen.steps) * self.step

    def chosen(self, monkeypatch: pytest.MonkeyPatch, seconds: float, images: int, processes: int = 1) -> Schedule:
        now = 0.0

        def pass_by(time: float) -> None:
            nonlocal now
            now += time

        class Clocked(Numbered):
            def make(self, seed: int, shard: int, on_step: OnStep = lambda done, total, loss: None) -> Batch:
                pass_by(costs.start)

                def told(done: int, total: int, loss: float) -> None:
                    pass_by(costs.step + (1 if done == 1 else 0))  # the first step is always slower
                    on_step(done, total, loss)

                made = super().make(seed, shard, told)
                pass_by(costs.end)
                return made

        def build(subject: Subject, steps: int) -> Clocked:
            pass_by(costs.build)
            return Clocked(costs.size, steps)

        costs = self
        monkeypatch.setattr(schedule, "time", SimpleNamespace(perf_counter=lambda: now))
        kind = Kind("clocked", "", lambda subject: "", build, (20, 40, 100, 300, 1000))
        return within(seconds, kind, SUBJECT, images, processes)


@pytest.mark.parametrize("seconds", [60.0, 100.0, 150.0])
@pytest.mark.parametrize("processes", [1, 2])
def test_as_many_steps_as_fit_and_not_many_fewer(
    monkeypatch: pytest.MonkeyPatch, seconds: float, processes: int
) -> None:
    costs = Costs()
    found = costs.chosen(monkeypatch, seconds, 40, processes)
    assert found.images == 40
    assert 10 < found.steps < 1000
    assert costs.spent(found, processes) <= seconds
    slower_first_step = 1.0 * (2 + 4 / processes)  # of both probes and of each shard
    assert costs.spent(replace(found, steps=found.steps + 1), processes) > seconds - slower_first_step - 0.1


def test_twice_the_processes_have_time_for_more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (Costs().chosen(monkeypatch, 60, 40, processes) for processes in (1, 2))
    assert two.steps > 1.9 * one.steps


def test_never_more_steps_than_the_greatest_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Costs().chosen(monkeypatch, 1e6, 40) == Schedule(1000, 40)


def test_where_even_few_steps_take_too_long_there_are_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = Costs(step=1.0)
    found = costs.chosen(monkeypatch, 60, 1000)
    assert found.steps == 10  # half of the least effort
    assert found.images < 1000
    assert found.images % 10 == 0
    assert costs.spent(found) <= 60 < costs.spent(Schedule(10, found.images + 20))


@pytest.mark.parametrize("seconds", [0.001, 5.0])
@pytest.mark.parametrize("processes", [1, 3])
def test_there_is_a_shard_for_each_process_in_any_case(
    monkeypatch: pytest.MonkeyPatch, seconds: float, processes: int
) -> None:
    assert Costs().chosen(monkeypatch, seconds, 1000, processes) == Schedule(10, 10 * processes)


def test_never_more_images_than_were_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Costs().chosen(monkeypatch, 0.001, 3, 2).images == 3
    assert Costs().chosen(monkeypatch, 100, 33).images == 33
