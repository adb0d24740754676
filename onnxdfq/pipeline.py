"""What `onnxdfq quantize` does, as one list of stages. Each reads what earlier ones left in the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from onnxdfq.config import Options
from onnxdfq.console import Progress, peak_megabytes
from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.report.report import Report
from onnxdfq.run import Run
from onnxdfq.stages.details import measure_details
from onnxdfq.stages.images import find_domain, judge_images, make_images
from onnxdfq.stages.learning import check_recipe, learn
from onnxdfq.stages.prepare import canonicalize, equalize, find_input, find_layers, fold, simplify
from onnxdfq.stages.ranges import calibrate
from onnxdfq.stages.verify import verify
from onnxdfq.stages.weights import correct_biases_of, freeze, insert, round_weights

BEFORE_IMAGES: Sequence[tuple[str, Callable[[Run], None]]] = (
    ("find the input", find_input),
    ("simplify", simplify),
    ("canonicalize", canonicalize),
    ("find the input domain", find_domain),
)
WITH_IMAGES: Sequence[tuple[str, Callable[[Run], None]]] = (
    *BEFORE_IMAGES,
    ("find layers", find_layers),
    ("check the recipe", check_recipe),
    ("make images", make_images),
    ("judge images", judge_images),
)
AFTER_IMAGES: Sequence[tuple[str, Callable[[Run], None]]] = (
    ("fold BatchNormalization", fold),
    ("equalize", equalize),
    ("calibrate", calibrate),
)
TARGET_STAGES: Sequence[tuple[str, Callable[[Run, str], None]]] = (
    ("decide and insert Q/DQ", insert),
    ("round weights", round_weights),
    ("learn", learn),
    ("correct biases", correct_biases_of),
    ("freeze weights", freeze),
    ("verify", verify),
    ("measure details", measure_details),
)


def quantize_model(
    original: onnx.ModelProto, options: Options, report: Report, progress: Progress, ranks: Ranks = ALONE
) -> Run:
    """Run all stages, in each process of ``ranks`` alike. The quantized models are in ``results`` by target, what was
    found in ``report``.

    Raises OnnxdfqError for whatever a user can mend.
    """
    run = Run(options, progress, original, report, ranks)
    prepare(run, WITH_IMAGES)
    quantize_prepared(run)
    return run


def prepare(run: Run, stages: Sequence[tuple[str, Callable[[Run], None]]]) -> None:
    """One stage after the other."""
    for name, stage in stages:
        with run.progress.stage(name):
            stage(run)


def quantize_prepared(run: Run, about: str = "") -> None:
    """All that comes after the images, once for each target. about: what the run is for, beside the target."""
    prepare(run, AFTER_IMAGES)
    for target in run.options.targets:
        for name, step in TARGET_STAGES:
            with run.progress.stage(f"{name} ({', '.join(filter(None, (about, target)))})"):
                step(run, target)
    run.report.stages = {name: round(seconds, 3) for name, seconds in run.progress.seconds.items()}
    run.report.peak_mb = round(peak_megabytes(), 1)
