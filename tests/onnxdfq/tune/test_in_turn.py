"""Generator and quantized graph trained in turn: what moves when, what is returned, going on where it was killed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onnxdfq.emit import with_qdq
from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.tune import in_turn
from onnxdfq.tune.checkpoint import Checkpoints
from onnxdfq.tune.in_turn import train
from onnxdfq.tune.length import Length
from onnxdfq.tune.log import Log
from onnxdfq.tune.published import Settings
from onnxdfq.tune.trained import Trained

QUICK = Settings("qimera", 16, 1e-3, 4, width=8)
LEARNS = replace(QUICK, warmup=0, observed=0, rate_student=1e-2)  # for two bits, which have much to learn
NOWHERE = Checkpoints(None, "")


class Killed(Exception):
    pass


def trained(made, iterations=40, log=None, checkpoints=NOWHERE, **options: Any) -> Trained:
    settings = options.pop("settings", QUICK)
    return train(
        made.subject, made.model, made.plan, made.gains, made.held_out, settings.method, Length(iterations),
        options.pop("seed", 0), Log(log), checkpoints, settings=settings, **options,
    )  # fmt: skip


def content(result: Trained) -> tuple[bytes, str]:
    return result.model.SerializeToString(deterministic=True), str(result.plan.to_json())


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("method", ["gdfq", "qimera", "adadfq"])
def test_every_method_runs_and_both_networks_learn(trainee, tmp_path: Path, monkeypatch, method) -> None:
    monkeypatch.setattr(in_turn, "PATIENCE", 2)
    steps: list[tuple[int, int]] = []
    result = trained(
        trainee(2), 40, tmp_path / "x.jsonl", settings=replace(LEARNS, method=method, warmup=4),
        on_step=lambda done, total, loss: steps.append((done, total)),
    )  # fmt: skip
    assert steps == [(k, 40) for k in range(1, 41)]
    assert (result.iterations_done, result.failed) == (40, "")
    head, *lines = lines_of(tmp_path / "x.jsonl")
    assert head["settings"]["method"] == method
    assert [line["iteration"] for line in lines] == [0, *range(2, 41, 2)]
    assert lines[-1]["rate"] == pytest.approx(1e-5)
    assert np.mean([line["student_loss"] for line in lines[-3:]]) < lines[1]["student_loss"]
    assert (tmp_path / "x.png").exists()
    assert result.agreement_after.kl < 0.7 * result.agreement_before.kl
    assert min(line["kl"] for line in lines) == pytest.approx(result.agreement_after.kl)


def test_what_is_returned_agrees_on_the_runtime_as_it_says(trainee) -> None:
    made = trainee(2)
    result = trained(made, 20, settings=LEARNS)
    assert result.agreement_after.kl < result.agreement_before.kl
    feeds = made.subject.into.feeds([made.subject.domain.to_model(made.held_out, made.subject.into)])[0]
    outputs = [
        next(iter(Session(model).run(feeds).values()))
        for model in (made.subject.model, with_qdq(result.model, result.plan))
    ]
    p, q = (torch.log_softmax(torch.tensor(each), 1) for each in outputs)
    assert float((p.exp() * (p - q)).sum(1).mean()) == pytest.approx(result.agreement_after.kl, rel=0.02)
    assert 100 * float((p.argmax(1) == q.argmax(1)).float().mean()) == pytest.approx(result.agreement_after.top1)


def test_the_quantized_graph_waits_for_the_warm_up_and_ranges_stay_after_it(trainee, monkeypatch) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = in_turn._InTurn._iteration

    def watched(self):
        losses = original(self)
        student = self.student
        seen.append((student.weights["w2"].values.detach().clone(), student.ranges["t"].scale.clone()))
        return losses

    monkeypatch.setattr(in_turn._InTurn, "_iteration", watched)
    monkeypatch.setattr(in_turn, "PATIENCE", 2)
    trained(trainee(), 20)  # the warm-up takes ten
    weights, scales = zip(*seen, strict=True)
    assert all(torch.equal(each, weights[0]) for each in weights[:10])
    assert not torch.equal(weights[10], weights[9])
    assert len({float(scale) for scale in scales[:10]}) == 10
    assert len({float(scale) for scale in scales[9:]}) == 1


def test_a_long_schedule_is_the_published_one_and_a_short_one_keeps_its_warm_up(trainee) -> None:
    made = trainee()

    def schedule(iterations: int, settings: Settings = QUICK) -> tuple[int, list[int]]:
        arguments = (made.subject, made.model, made.plan, made.gains, made.held_out, settings, 0)
        training = in_turn._InTurn(*arguments, in_turn.ALONE, ())
        training.iterations = iterations
        return training._begin(settings.warmup), [training._at(epoch) for epoch in settings.milestones]

    assert schedule(80_000) == (800, [20_000, 40_000, 60_000])
    assert schedule(80_000, replace(QUICK, warmup=50)) == (10_000, [20_000, 40_000, 60_000])
    assert schedule(2000) == (200, [500, 1000, 1500])
    assert schedule(40) == (10, [10, 20, 30])
    assert schedule(40, replace(QUICK, warmup=0))[0] == 0


def test_equal_seeds_give_equal_bytes_and_others_do_not(trainee) -> None:
    first, again, other = (trained(trainee(2), 16, seed=seed, settings=LEARNS) for seed in (1, 1, 2))
    assert first.agreement_after.kl < first.agreement_before.kl
    assert content(first) == content(again)
    assert content(first) != content(other)


@pytest.mark.parametrize(("settings", "bits"), [(replace(LEARNS, method="adadfq"), 2), (QUICK, 4)])
def test_a_killed_run_ends_with_the_same_bytes(trainee, tmp_path: Path, monkeypatch, settings, bits) -> None:
    monkeypatch.setattr(in_turn, "PATIENCE", 2)
    made, kept = trainee(bits), Checkpoints(tmp_path, "key")

    def kill(done: int, total: int, loss: float) -> None:
        if done == 19:
            raise Killed

    with pytest.raises(Killed):
        trained(made, 24, log=tmp_path / "x.jsonl", checkpoints=kept, settings=settings, on_step=kill)
    resumed_steps: list[int] = []
    resumed = trained(
        made, 24, log=tmp_path / "x.jsonl", checkpoints=kept, settings=settings,
        on_step=lambda done, total, loss: resumed_steps.append(done),
    )  # fmt: skip
    assert resumed_steps == list(range(19, 25)), "checks are every second iteration, the last one was at 18"
    assert content(resumed) == content(trained(made, 24, settings=settings))
    assert resumed.agreement_after.kl < resumed.agreement_before.kl
    heads = [line["settings"]["resumed"] for line in lines_of(tmp_path / "x.jsonl") if "settings" in line]
    assert heads == [0, 18]


def test_a_finished_run_is_not_repeated(trainee, tmp_path: Path) -> None:
    made, kept = trainee(2), Checkpoints(tmp_path, "key")
    first = trained(made, 20, checkpoints=kept)
    again = trained(made, 20, checkpoints=kept, on_step=lambda *numbers: pytest.fail("a step was taken"))
    assert content(first) == content(again)
    assert (first.failed, first.iterations_done) == (again.failed, again.iterations_done)


def test_numbers_that_explode_are_noticed_and_the_start_is_kept(trainee) -> None:
    made = trainee()
    result = trained(made, settings=replace(QUICK, warmup=0, rate_student=1e30))
    assert "no number" in result.failed
    assert result.iterations_done < 40
    assert result.agreement_after.kl <= result.agreement_before.kl


def test_useless_training_is_stopped_and_the_start_is_kept(trainee) -> None:
    made = trainee()
    result = trained(made, settings=replace(QUICK, warmup=0, observed=0, rate_student=3.0))
    assert "it came no nearer to the model, on held-out images" in result.failed or "no number" in result.failed
    assert result.iterations_done <= 20
    assert result.agreement_after == result.agreement_before
    assert result.plan.tensors["r"] == made.plan.tensors["r"]


def test_a_model_without_normalization_goes_without_its_loss_and_says_so(trainee) -> None:
    assert "no BatchNormalization statistics" in trained(trainee(norm=False), 12).about
    assert "BatchNormalization" not in trained(trainee(), 12).about


def test_a_model_that_insists_on_a_batch(trainee) -> None:
    result = trained(trainee(batch=3), 12)
    assert "18 images each" in result.about


def test_activations_that_share_a_scale_keep_sharing_it(trainee) -> None:
    result = trained(trainee(), 20, groups=[{"r", "t"}])
    r, t = (result.plan.tensors[name].scale for name in "rt")
    assert not result.failed
    assert r == t


def test_no_classes_no_training(trainee) -> None:
    made = trainee()
    made.subject = replace(made.subject, guides=replace(made.subject.guides, classes=0))
    with pytest.raises(OnnxdfqError, match="no training with qimera: the model is no classifier"):
        trained(made)


def test_settings_are_the_published_ones_unless_told_otherwise(trainee, tmp_path: Path) -> None:
    made = trainee()
    path = tmp_path / "x.jsonl"
    models = (made.subject, made.model, made.plan, made.gains, made.held_out)
    arguments = (*models, "adadfq", Length(1), 0, Log(path), NOWHERE)
    assert "16 images each" in train(*arguments).about
    settings = lines_of(path)[0]["settings"]
    assert {name: settings[name] for name in ("rate_student", "rate_generator", "width", "statistics")} == {
        "rate_student": 1e-4, "rate_generator": 1e-3, "width": 128, "statistics": 1.0,
    }  # fmt: skip
    assert settings["observed"] == 0, "one iteration is too short to observe ranges in"
