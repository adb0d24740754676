"""The whole graph learns: what is kept, going on where it was killed, and what is said when it was of no use."""

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
from onnxdfq.tune import accurate
from onnxdfq.tune.accurate import tune
from onnxdfq.tune.checkpoint import Checkpoints
from onnxdfq.tune.length import Length
from onnxdfq.tune.log import Log
from onnxdfq.tune.rates import Rates
from onnxdfq.tune.trained import Trained
from tests.onnxdfq.tune.planned import smooth

NOWHERE = Checkpoints(None, "")
PIXELS, HELD_OUT = smooth(32), smooth(22, seed=1)


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """That come far."""
    monkeypatch.setattr(accurate, "BATCH", 16)
    monkeypatch.setattr(accurate, "RATES", Rates(2e-2, 2e-3, 5e-3))


def tuned(made, iterations=60, log=None, checkpoints=NOWHERE, seed=0, length=None, **options: Any) -> Trained:
    subject = replace(made.subject, model=made.model)
    return tune(
        subject, made.model, made.plan, frozenset({"b2", "b3"}), PIXELS, HELD_OUT,
        length or Length(iterations), seed, Log(log), checkpoints, **options,
    )  # fmt: skip


def content(result: Trained) -> tuple[bytes, str]:
    return result.model.SerializeToString(deterministic=True), str(result.plan.to_json())


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_comes_nearer_and_says_how(trainee, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    result = tuned(trainee(2), log=tmp_path / "x.jsonl", on_step=lambda done, total, loss: steps.append((done, total)))
    assert steps == [(k, 60) for k in range(1, 61)]
    assert (result.iterations_done, result.failed) == (60, "")
    assert result.agreement_after.kl < 0.8 * result.agreement_before.kl
    assert "3 blocks and the whole learned for 60 iterations on 32 images" in result.about
    head, *lines = lines_of(tmp_path / "x.jsonl")
    assert {name: head["settings"][name] for name in ("recipe", "blocks", "iterations", "images")} == {
        "recipe": "accurate", "blocks": 3, "iterations": 60, "images": 32,
    }  # fmt: skip
    assert [line["iteration"] for line in lines if "loss" in line] == list(range(10, 70, 10))
    assert [line["iteration"] for line in lines if "kl" in line] == [0, 15, 30, 45, 60]
    assert min(line["kl"] for line in lines if "kl" in line) == pytest.approx(result.agreement_after.kl)
    assert (tmp_path / "x.png").exists()


def test_what_is_returned_agrees_on_the_runtime_as_it_says(trainee) -> None:
    made = trainee(2)
    result = tuned(made)
    feeds = made.subject.into.feeds([made.subject.domain.to_model(HELD_OUT, made.subject.into)])[0]
    outputs = [
        next(iter(Session(model).run(feeds).values())) for model in (made.model, with_qdq(result.model, result.plan))
    ]
    p, q = (torch.log_softmax(torch.tensor(each), 1) for each in outputs)
    assert float((p.exp() * (p - q)).sum(1).mean()) == pytest.approx(result.agreement_after.kl, rel=0.02)
    assert 100 * float((p.argmax(1) == q.argmax(1)).float().mean()) == pytest.approx(result.agreement_after.top1)


def test_a_model_without_classes(trainee) -> None:
    made = trainee(2)
    made.subject = replace(made.subject, guides=replace(made.subject.guides, classes=0))
    result = tuned(made, 60)
    assert result.failed == ""
    assert result.agreement_after.kl < 0.8 * result.agreement_before.kl


def test_equal_seeds_give_equal_bytes_and_others_do_not(trainee) -> None:
    first, again, other = (tuned(trainee(2), 15, seed=seed) for seed in (1, 1, 2))
    assert content(first) == content(again)
    assert content(first) != content(other)


def test_random_numbers_of_others_are_left_alone(trainee) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    tuned(trainee(2), 2)
    assert torch.equal(torch.rand(4), expected)


# steps before it dies: before anything was kept, and after
@pytest.mark.parametrize(("last", "resumes"), [(2, 0), (9, 9), (11, 9)])
def test_a_killed_run_ends_with_the_same_bytes(trainee, tmp_path: Path, last: int, resumes: int) -> None:
    made, kept = trainee(2), Checkpoints(tmp_path, "key")

    def kill(done: int, total: int, loss: float) -> None:
        if done == last + 1:
            raise Killed

    with pytest.raises(Killed):
        tuned(made, 12, log=tmp_path / "x.jsonl", checkpoints=kept, on_step=kill)
    steps: list[int] = []
    resumed = tuned(made, 12, log=tmp_path / "x.jsonl", checkpoints=kept,
                    on_step=lambda done, total, loss: steps.append(done))  # fmt: skip
    assert steps == list(range(resumes + 1, 13))
    whole = tuned(made, 12)
    assert content(resumed) == content(whole)
    assert replace(resumed, model=whole.model, plan=whole.plan) == whole
    heads = [line["settings"]["resumed"] for line in lines_of(tmp_path / "x.jsonl") if "settings" in line]
    assert heads == [0, resumes]


def test_a_finished_run_is_not_repeated(trainee, tmp_path: Path) -> None:
    made, kept = trainee(2), Checkpoints(tmp_path, "key")
    first = tuned(made, 3, checkpoints=kept)
    again = tuned(made, 3, checkpoints=kept, on_step=lambda *numbers: pytest.fail("a step was taken"))
    assert content(first) == content(again)
    assert replace(again, model=first.model, plan=first.plan) == first


def test_scores_that_are_no_numbers_give_the_start_back(trainee, monkeypatch) -> None:
    monkeypatch.setattr(accurate, "RATES", Rates(float("nan"), float("nan"), float("nan")))
    made = trainee(2)
    result = tuned(made, 8)
    assert "scores were no numbers after 2 iterations" in result.failed
    assert result.agreement_after == result.agreement_before
    assert result.iterations_done == 2, "nothing is learned any more"
    for name, params in made.plan.tensors.items():
        assert result.plan.tensors[name].scale == pytest.approx(params.scale, rel=1e-6)


def test_what_was_learned_outlives_breaking_down(trainee, monkeypatch) -> None:
    step = accurate._Accurate._step

    def breaking(self) -> float:
        if self.done == 45:
            self.rates = [float("nan")] * len(self.rates)
        return step(self)

    monkeypatch.setattr(accurate._Accurate, "_step", breaking)
    result = tuned(trainee(2), 60)
    assert result.failed == ""
    assert result.agreement_after.kl < result.agreement_before.kl
    assert all(np.isfinite(each.scale).all() for each in result.plan.tensors.values())


def test_useless_training_gives_the_start_back_and_says_so(trainee, monkeypatch) -> None:
    monkeypatch.setattr(accurate, "RATES", Rates(300.0, 0.0, 1e4))
    made = trainee(2)
    result = tuned(made, 6)
    assert result.failed == "nothing came nearer to the model on held-out images"
    assert result.agreement_after == result.agreement_before
    assert result.plan.tensors["r"].scale == pytest.approx(made.plan.tensors["r"].scale, rel=1e-6)


def test_seconds_instead_of_iterations(trainee) -> None:
    result = tuned(trainee(2), length=Length(0, 0.5))
    assert result.iterations_done > 1
    assert result.failed == ""
    assert tuned(trainee(2), length=Length(0, 1e-3)).iterations_done == 1


def test_timing_teaches_nothing(trainee, monkeypatch) -> None:
    made, states = trainee(2), []
    original = accurate._Accurate.run

    def watched(self, *arguments):
        states.append({name: each.clone() for name, each in self.student.module.state_dict().items()})
        return original(self, *arguments)

    monkeypatch.setattr(accurate._Accurate, "run", watched)
    monkeypatch.setattr(Length, "with_each", lambda self, iteration: iteration() or 3)
    timed = tuned(made, length=Length(0, 1.0))
    monkeypatch.setattr(Length, "with_each", lambda self, iteration: 3)
    plain = tuned(made, length=Length(3))
    assert all(torch.equal(each, states[1][name]) for name, each in states[0].items())
    assert content(timed) == content(plain)


def test_activations_that_share_a_scale_keep_sharing_it(trainee) -> None:
    made = trainee(2)
    tensors = made.plan.tensors
    made.plan = replace(made.plan, tensors={**tensors, "r": replace(tensors["r"], scale=tensors["t"].scale)})
    for groups, shared in (([{"r", "t"}], True), ([], False)):
        result = tuned(made, 15, groups=groups)
        assert result.failed == ""
        assert (result.plan.tensors["r"].scale == result.plan.tensors["t"].scale) is shared


def test_a_model_that_insists_on_a_batch(trainee) -> None:
    assert "on 32 images" in tuned(trainee(2, batch=3), 2).about
