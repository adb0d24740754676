"""The quantized graph learns from the synthetic images, where the recipe says so, and what it learned is judged."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxdfq.emit import with_qdq
from onnxdfq.engine.operators import unsupported
from onnxdfq.engine.ort import SERIALIZED_LIMIT, Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.guides import FLOATS
from onnxdfq.images.source import Subject
from onnxdfq.images.sources import KINDS
from onnxdfq.recipes import PUBLISHED
from onnxdfq.run import Run
from onnxdfq.stages.ranges import as_published
from onnxdfq.verify.agreement import agreement

if TYPE_CHECKING:  # torch is imported where it is needed
    from onnxdfq.tune.trained import Trained


def check_recipe(run: Run) -> None:
    """Now, for a recipe that asks for more than the model has should not cost the minutes that images take."""
    if run.options.placement == "paper":
        as_published(run)
    if run.options.way.tuning in PUBLISHED:
        lacking = KINDS[run.options.way.tuning].lacks(Subject(run.model, run.into, run.domain, run.guides))
        if lacking:
            raise OnnxdfqError(f"--recipe {run.options.recipe}: {lacking}", "choose --recipe accurate or balanced")


def learn(run: Run, target: str) -> None:
    """Train the graph of one target. What is no better than before is dropped, and the report says why."""
    if not run.options.way.tuning:
        return
    reason = _lacks(run)
    if reason:
        run.learning[target] = f"nothing was learned: {reason}"
        return
    trained = _trained(run, target)
    reason = trained.failed
    if not reason:
        candidate = with_qdq(trained.model, trained.plan)
        held_out = run.to_judge()
        original, device = Session(run.original, run.options.device), run.options.device
        before, after = (  # as written: biases at few bits are kept from being rounded, see passes/precise_biases.py
            agreement(original, Session(each, device, as_written=True), held_out)
            for each in (run.results[target], candidate)
        )
        if after.distance <= before.distance:
            run.results[target], run.plans[target] = candidate, trained.plan
            run.learning[target] = trained.about
            return
        reason = f"{before.distance:.3g} from the model on held-out images before, {after.distance:.3g} after"
    run.learning[target] = f"dropped, what rounding gave is kept: {reason} ({trained.about})"
    run.report.notices.append(f"{target}: the graph learned nothing of use: {reason}")


def _lacks(run: Run) -> str:
    """Why the graph can't learn; empty where it can."""
    if run.into.dtype.kind == "u":
        return "the torch engine feeds no uint8 input"
    if run.original.ByteSize() >= SERIALIZED_LIMIT:
        return "the model is larger than 2 GB"
    if run.model.graph.output[0].type.tensor_type.elem_type not in FLOATS:
        return "the first output holds no scores, nor other numbers that could come nearer"
    lines = unsupported(run.model)
    return f"the torch engine can't run the model: {lines[0]}" if lines else ""


def _judges(run: Run) -> np.ndarray:
    return np.concatenate(list(run.judges.values()))


def _trained(run: Run, target: str) -> Trained:
    from onnxdfq.engine.torch_device import torch_device
    from onnxdfq.tune.checkpoint import Checkpoints, key_of
    from onnxdfq.tune.length import Length
    from onnxdfq.tune.log import Log

    options, step = run.options, run.progress.step
    settings = {name: value for name, value in asdict(replace(options, plan=None)).items() if name not in ELSEWHERE}
    key = key_of({**settings, "target": target}, run.model, run.results[target])
    log, checkpoints = Log(_log_of(run, target)), Checkpoints(options.checkpoints, key)
    groups = run.placements[target].groups
    device = torch_device(options.device)
    # What is left of the budget for each target, images having had their share
    seconds = ((options.time_budget or 0) - (options.seconds_for_images or 0)) / len(options.targets)
    length = Length(options.learns or 0, seconds)
    method = options.way.tuning
    if method == "accurate" or not method:  # nobody asks without one
        from onnxdfq.tune.accurate import tune
        from onnxdfq.tune.rounded import with_rounded

        subject = Subject(run.model, run.into, run.domain, run.guides, device)
        start, biases = with_rounded(run.model, run.results[target], list(run.layers(target)))
        return tune(
            subject, start, run.plans[target], biases, run.training, _judges(run), length, options.seed,
            log, checkpoints, run.ranks, step, groups=groups,
        )  # fmt: skip
    from onnxdfq.tune.in_turn import train

    subject = Subject(run.canonical, run.into, run.domain, run.guides, device)
    return train(
        subject, run.model, run.plans[target], run.gains, _judges(run), method, length, options.seed,
        log, checkpoints, run.ranks, step, groups=groups,
    )  # fmt: skip


ELSEWHERE = ("targets", "log", "checkpoints", "cache", "evaluate")  # options on which no training hangs


def _log_of(run: Run, target: str) -> Path | None:
    """The log of each target has a file of its own."""
    path = run.options.log
    return (
        path if path is None or len(run.options.targets) == 1 else path.with_name(f"{path.stem}.{target}{path.suffix}")
    )
