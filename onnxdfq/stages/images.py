"""The images that calibrate: made from nothing, or from the model itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.domain import given, preset
from onnxdfq.images.infer_domain import infer_domain
from onnxdfq.images.judges import judges
from onnxdfq.images.procedural import procedural
from onnxdfq.run import CALIBRATION_IMAGES, Run
from onnxdfq.stages.synthesis import judge, make


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
            found = [next(iter(session.run(feeds).values())) for feeds in run.into.feeds(parts)]
            alike = all(np.ndim(each) and np.shape(each)[1:] == np.shape(found[0])[1:] for each in found)
            return np.concatenate(found) if alike else np.empty(0)

        run.domain = infer_domain(run.graph, run.into, pixels, answers)
    run.report.domain = run.domain.describe()
    if run.given is not None:
        run.given = run.domain.from_rgb(run.given)


def make_images(run: Run) -> None:
    """The images that calibrate, or teach, and those held out."""
    given = run.given if run.options.source is None else None  # with a source, images are made from them
    if given is not None:
        taken = np.linspace(0, len(given) - 1, min(len(given), run.most_given)).astype(int)
        pixels = given[taken]
        source = f"of {len(given)} given"
    else:
        made = run.ranks.agreed(make(run, run.wanted, run.ranks))
        assert made is not None  # the first process has it
        pixels, taken, source = made.pixels, np.arange(len(made.pixels)), run.report.images
    size = run.into.batch or 1
    if len(pixels) < 2 * size:
        hint = f"the model takes {size} at once, and as many are held out" if size > 1 else "give two or more"
        if given is None:  # only a time budget makes so few
            hint = "give a longer --time-budget"
        raise OnnxdfqError(f"{len(pixels)} images are too few", hint)
    share = len(pixels) * run.held // run.wanted  # what is given may be more or less than what is wanted
    held = max(share // size, 1) * size
    # Files often lie in order of their class: what is held out is spread over all.
    out = np.zeros(len(pixels), bool)
    out[np.linspace(0, len(pixels) - 1, held).astype(int)] = True
    run.training, run.held_out = pixels[~out], pixels[out]
    others = run.affordable(CALIBRATION_IMAGES)
    run.judges = {"given": run.held_out} if given is not None else judges(run.held_out, others, run.options.seed)
    # As many as without learning: what is learned is compared with what rounding gives
    few = run.options.many_images and run.given is None
    run.calibration = run.training[: run.affordable(CALIBRATION_IMAGES)] if few else run.training
    order = np.concatenate([taken[~out], taken[out]])
    run.into = replace(run.into, others=tuple(other.reordered(order) for other in run.into.others))
    purpose = "to learn from" if run.options.way.tuning else "to choose by"
    learning = f", {len(run.training)} {purpose}" if run.options.many_images else ""
    run.report.images = f"{len(run.calibration)} for calibration{learning}, {held} held out; {source}"


def judge_images(run: Run) -> None:
    judge(run, np.concatenate([run.calibration, run.held_out]))


def _procedural(run: Run, count: int, purpose: str) -> np.ndarray:
    # A stream of its own for each purpose: more images for one do not change those for another.
    rng = np.random.default_rng([run.options.seed, *purpose.encode()])
    return procedural(count, run.into.channels, run.into.height, run.into.width, rng)
