"""The images that calibrate: made from nothing, or from the model itself."""

from __future__ import annotations

import numpy as np

from onnxdfq.config import RECIPES
from onnxdfq.engine.operators import unsupported
from onnxdfq.engine.ort import Session
from onnxdfq.images.domain import given, preset
from onnxdfq.images.infer_domain import infer_domain
from onnxdfq.images.procedural import procedural
from onnxdfq.run import Run

CALIBRATION_IMAGES = 32  # at 224x224; smaller images come in larger numbers at the same cost


def find_domain(run: Run) -> None:
    options, channels = run.options, run.into.channels
    if options.mean is not None and options.std is not None:
        run.domain = given(options.mean, options.std, options.scale, options.order, channels)
    elif options.domain is not None:
        run.domain = preset(options.domain, channels, "given by name")
    else:
        session = Session(run.model)
        pixels = _procedural(run, run.whole(8), "domain")

        def answers(values: np.ndarray) -> np.ndarray:
            size = run.into.batch or len(values)
            parts = [values[k : k + size] for k in range(0, len(values), size)]
            found = [next(iter(session.run({run.into.name: part}).values())) for part in parts]
            alike = all(np.ndim(each) and np.shape(each)[1:] == np.shape(found[0])[1:] for each in found)
            return np.concatenate(found) if alike else np.empty(0)

        run.domain = infer_domain(run.graph, run.into, pixels, answers)
    run.report.domain = run.domain.describe()


def make_images(run: Run) -> None:
    count = run.affordable(CALIBRATION_IMAGES)
    images = _procedural(run, count + run.whole(count // 2), "images")
    source, reason = "procedural", _no_inversion(run)
    if not reason:
        from onnxdfq.images.inversion import invert, torch_device  # here, so that recipe fast never imports torch

        steps = RECIPES[run.options.recipe].inversion_steps
        device = torch_device(run.options.device)
        images = invert(
            run.model, run.into, run.domain, images,
            steps=steps, seed=run.options.seed, device=device, on_step=run.progress.step,
        )  # fmt: skip
        led = [f"{len(run.guides.statistics)} BatchNormalization statistics"] if run.guides.statistics else []
        led += [f"{run.guides.classes} classes"] if run.guides.classes else []
        source = f"inverted on {device} in {steps} steps, led by {' and '.join(led)}"
    run.calibration, run.held_out = images[:count], images[count:]
    run.report.images = f"{count} for calibration, {len(run.held_out)} held out; {source}" + (
        f" ({reason})" if reason else ""
    )


def _no_inversion(run: Run) -> str:
    """Why images are not inverted from the model; empty when they are."""
    if not RECIPES[run.options.recipe].inversion_steps:
        return f"recipe {run.options.recipe} takes no gradients"
    if not run.guides:
        return "the model has neither BatchNormalization nor class scores to lead an inversion"
    if run.into.dtype == np.uint8:
        return "there is no gradient to a uint8 input"
    lines = unsupported(run.model)
    return f"the torch engine can't run the model: {lines[0]}" if lines else ""


def _procedural(run: Run, count: int, purpose: str) -> np.ndarray:
    # A stream of its own for each purpose: more images for one do not change those for another.
    rng = np.random.default_rng([run.options.seed, *purpose.encode()])
    return procedural(count, run.into.channels, run.into.height, run.into.width, rng)
