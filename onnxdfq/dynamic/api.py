"""`quantize --recipe dynadfq` from Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from onnxdfq.api import about_images
from onnxdfq.calibrate.observers import Method
from onnxdfq.config import Options, Rounding
from onnxdfq.console import Progress
from onnxdfq.dynamic.build import Dynamic, build
from onnxdfq.dynamic.bundle import check_place, write_bundle
from onnxdfq.dynamic.cascade import Wanted
from onnxdfq.dynamic.level import read_levels
from onnxdfq.engine.ort import Device
from onnxdfq.errors import OnnxdfqError
from onnxdfq.model_file import read_model, size_on_disk
from onnxdfq.overrides import read_overrides
from onnxdfq.report.report import Report
from passes.weight_scales import Scales


def quantize_dynamic(
    model: str | Path,
    levels: Sequence[int | float | str],
    *,
    averages: bool = False,
    target: str = "ort-cpu",
    output: str | Path | None = None,
    mean_cost: float | None = None,
    min_agreement: float | None = None,
    iterations: int | None = None,
    domain: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float = 1.0,
    order: Literal["RGB", "BGR"] = "RGB",
    input_shape: Sequence[int] | None = None,
    observer: Method | None = None,
    bias_correction: bool = True,
    evaluate: str | Path | None = None,
    device: Device = "auto",
    seed: int = 0,
    all_layers: bool = False,
    rounding: Rounding | None = None,
    scales: Scales | None = None,
    config: str | Path | None = None,
    compat: bool = False,
    images: str | Path | None = None,
    source: str | None = None,
    aims: Sequence[str] = (),
    effort: int | None = None,
    time_budget: float | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Dynamic:
    """Make levels of a classifier, and what chooses one for each image, without data.

    levels: 4, 6 and 8, say, bits of weights and activations; "fp16" or "fp32" for one that stays float. averages: bits
    of weights are these on average, chosen by layer. output: a folder for the bundle, see ``onnxdfq.dynamic.bundle``.
    mean_cost: what a mean image may cost, as a share of the dearest level; or min_agreement: how many synthetic images,
    in percent, keep the class of the float model; by default half a point fewer than at the dearest level. iterations:
    of learning, for each level. Everything else is as in ``onnxdfq.quantize``.

    Raises OnnxdfqError for whatever can be mended from outside.
    """
    path, found = Path(model), read_levels(levels, averages=averages)
    if mean_cost is not None and min_agreement is not None:
        raise OnnxdfqError("--mean-cost and --min-agreement exclude each other", "give one of them")
    if mean_cost is not None and not 0 < mean_cost <= 1:
        raise OnnxdfqError(f"--mean-cost {mean_cost:g} is no share", "give one above 0 and up to 1, such as 0.5")
    if min_agreement is not None and not 0 < min_agreement <= 100:
        raise OnnxdfqError(f"--min-agreement {min_agreement:g} is no percentage", "give one such as 98")
    wanted = None if mean_cost is None and min_agreement is None else Wanted(min_agreement, mean_cost)
    options = Options(
        targets=(target,),
        recipe="dynadfq",
        iterations=iterations,
        device=device,
        seed=seed,
        domain=domain,
        scale=scale,
        order=order,
        observer=observer,
        bias_correction=bias_correction,
        evaluate=Path(evaluate) if evaluate is not None else None,
        all_layers=all_layers,
        rounding=rounding,
        scales=scales,
        overrides=tuple(read_overrides(Path(config))) if config is not None else (),
        compat=compat,
        source=source,
        effort=effort,
        time_budget=time_budget,
        **about_images(images, aims, cache, mean, std, input_shape),
    )
    for level in found:
        if not level.float_type:
            level.options(options)  # raises now where the target can't
    folder = Path(output) if output is not None else None
    if folder is not None:
        check_place(folder)
    original = read_model(path)
    described = asdict(options) | {
        "levels": [level.name for level in found], "averages": averages, "mean_cost": mean_cost,
        "min_agreement": min_agreement, "plan": None,
    }  # fmt: skip
    described = {name: str(value) if isinstance(value, Path) else value for name, value in described.items()}
    report = Report(str(path), size_on_disk(path), described)
    done = build(original, options, found, wanted, report, progress or Progress())
    if folder is None:
        return done
    extra = {"report.json": json.dumps(done.report.to_json(), indent=1).encode(), "curve.png": done.curve}
    manifest = write_bundle(folder, done.manifest, done.models, done.single, done.router, extra)
    return replace(done, manifest=manifest)
