"""The same as the command line, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from onnxdfq.calibrate.observers import Method
from onnxdfq.cheapest import cheapest
from onnxdfq.config import Compensation, Options, PlacedBy, Rounding, bits_in_name
from onnxdfq.console import Progress, peak_megabytes
from onnxdfq.engine.ort import Device
from onnxdfq.errors import OnnxdfqError
from onnxdfq.gate import Gate
from onnxdfq.images.aims import read_aims
from onnxdfq.images.contact_sheet import contact_sheet
from onnxdfq.images.files import write_images
from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.images.sources import STARTS_FROM_IMAGES
from onnxdfq.model_file import check_writable, read_model, size_on_disk, write_bytes, write_model
from onnxdfq.overrides import read_overrides
from onnxdfq.pipeline import BEFORE_IMAGES, quantize_model
from onnxdfq.plan_file import read_plan
from onnxdfq.recipes import AUTO, CHEAPEST_FIRST
from onnxdfq.report.page import page as show
from onnxdfq.report.report import Report
from onnxdfq.rollback import quantize_with_rollback
from onnxdfq.run import Run
from onnxdfq.stages.synthesis import judge, make
from passes.weight_scales import Scales

SHOWN = 32  # images on the page


@dataclass(frozen=True)
class Quantized:
    """models: the quantized model for each target. report: what was decided, assumed and measured."""

    models: dict[str, onnx.ModelProto]
    report: Report


@dataclass(frozen=True)
class Synthesized:
    """images: RGB or grey pixels [N, C, H, W], whole numbers 0..255. labels: what they were made to show, classes [N]
    or shares of classes [N, K]; None where nothing is known. report: what was assumed and how they were made."""

    images: np.ndarray
    labels: np.ndarray | None
    report: Report


def quantize(
    model: str | Path,
    *,
    bits: int | tuple[int, int] = 8,
    act_bits: int | None = 8,
    target: str | Sequence[str] = "tensorrt",
    recipe: str = "balanced",
    output: str | Path | Mapping[str, Path] | None = None,
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
    size_budget: float | None = None,
    avg_bits: float | None = None,
    compensation: Compensation | None = None,
    rounding: Rounding | None = None,
    scales: Scales | None = None,
    equalization: bool = False,
    config: str | Path | None = None,
    plan: str | Path | None = None,
    compat: bool = False,
    float_type: str = "float32",
    images: str | Path | None = None,
    source: str | None = None,
    aims: Sequence[str] = (),
    effort: int | None = None,
    time_budget: float | None = None,
    cache: str | Path | None = None,
    placement: PlacedBy = "target",
    iterations: int | None = None,
    epochs: float | None = None,
    log: str | Path | None = None,
    checkpoints: str | Path | None = None,
    min_agreement: float | None = None,
    max_drop: float | None = None,
    rollback: bool = False,
    page: str | Path | None = None,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Quantized | None:
    """Quantize an ONNX file without data; None in all processes of torchrun but the first.

    model: path of a float ONNX file with an image input [N, C, H, W] or [N, H, W, C]. What other inputs are fed with
        the report says; an npz given as images may hold arrays for them, by name, as the model reads them.
    bits: of the weights, 2 to 8; the first and last layers keep 8 unless all_layers. (low, high): pairs of layers, a
        low-bit one before a high-bit one that makes up for it. act_bits: of the activations, 2 to 8 or, where the
        target has them, 16; None quantizes weights only.
    size_budget, avg_bits: instead of bits, chosen for each layer so that the weights take this share of their bytes in
        float32, or have so many bits on average.
    compensation: of pairs, "dfmpc+" by default, "dfmpc" as published, or "none". rounding: "nearest", "squant" or
        "gptq". scales: of the weights, "min-max", "mse" or "lp". None takes what suits the recipe and the bits.
    equalization: make ranges of weights alike across layers first.
    target: "tensorrt", "ort-cpu" or another of ``passes.targets.TARGETS``, or several.
    recipe: see ``onnxdfq.recipes.RECIPES``, or "auto": the cheapest with which ``min_agreement`` percent of held-out
        images (90 by default, 98 of your own) have the same top-1 as with the float model.
    output: where to write the model, for several targets a folder or a file for each; None writes nothing.
    domain, or mean, std and scale (x = (pixel * scale - mean) / std), and order: what the model is fed with; inferred
        when not given. input_shape: needed only where H and W are free and no usual size runs.
    observer: how ranges are cut; None takes the default of the bit width.
    images: a folder or npz of images to calibrate with, or for source "inversion" to start from. source: of synthetic
        images, see ``onnxdfq.images.sources.KINDS``; None takes that of the recipe. effort: 1 to 5, or time_budget:
        seconds, for making them, and for learning from them. cache: a folder where they are kept.
    placement: of quantizers, "target" or "paper", as published. iterations, or epochs of 200: of recipes that learn.
        log: a file for what happens meanwhile, JSON lines, with a PNG beside it. checkpoints: a folder from which a run
        that was killed goes on.
    min_agreement, max_drop: what is demanded of held-out images in percent, and of top-1 on labelled ones in points;
        what does not hold is in ``report.gate``. rollback: put the fewest layers back to 8 bits, then to float, until
        it does.
    page: an HTML file that shows the report.
    aims: of inverted images, see ``onnxdfq.images.aims.Aims``: "boundary=0.3", "swing".
    evaluate: labelled images for the report's accuracy; they calibrate nothing.
    device: for gradients and verification. seed: same seed, model and options, same bytes.
    config: a TOML file about single nodes, see ``onnxdfq.overrides``. plan: a decision to apply, see
        ``onnxdfq.plan_file``. compat: weights of few bits stay in 8-bit containers. float_type: "float16" writes what
        stays unquantized in half precision, where the target allows it.

    Raises OnnxdfqError for whatever can be mended from outside.
    """
    path = Path(model)
    options = Options(
        bits=bits,
        act_bits=act_bits,
        targets=(target,) if isinstance(target, str) else tuple(dict.fromkeys(target)),
        recipe=CHEAPEST_FIRST[-1] if recipe == AUTO else recipe,
        device=device,
        seed=seed,
        domain=domain,
        scale=scale,
        order=order,
        observer=observer,
        bias_correction=bias_correction,
        evaluate=Path(evaluate) if evaluate is not None else None,
        all_layers=all_layers,
        size_budget=size_budget,
        avg_bits=avg_bits,
        compensation=compensation,
        rounding=rounding,
        scales=scales,
        equalization=equalization,
        overrides=tuple(read_overrides(Path(config))) if config is not None else (),
        plan=read_plan(Path(plan)) if plan is not None else None,
        compat=compat,
        float_type=float_type,
        source=source,
        effort=effort,
        time_budget=time_budget,
        placement=placement,
        iterations=iterations,
        epochs=epochs,
        log=Path(log) if log is not None else None,
        checkpoints=Path(checkpoints) if checkpoints is not None else None,
        details=page is not None,
        **about_images(images, aims, cache, mean, std, input_shape),
    )
    gate = Gate(min_agreement, max_drop)
    if rollback and (not gate or recipe == AUTO):
        hint = "give --max-drop or --min-agreement, and a recipe"
        raise OnnxdfqError("--rollback needs to know what for, and one recipe to do it with", hint)
    if options.way.deciding:
        raise OnnxdfqError(f"recipe {recipe} makes several models", "call onnxdfq.quantize_dynamic")
    original = read_model(path)
    files = dict(output) if isinstance(output, Mapping) else {}
    if isinstance(output, (str, Path)):
        files = output_files(path, bits_in_name(bits, size_budget, avg_bits), options.targets, Path(output))
    for file in [*files.values(), *([Path(page)] if page is not None else [])]:
        check_writable(file, path)
    if options.log is not None:
        check_writable(options.log, path)

    def run_with(options: Options) -> Run:
        described = asdict(replace(options, plan=None)) | {"plan": str(plan) if plan else None}
        described = {name: str(value) if isinstance(value, Path) else value for name, value in described.items()}
        report = Report(str(path), size_on_disk(path), described)
        if rollback:
            return quantize_with_rollback(Run(options, progress or Progress(), original, report, ranks), gate.held_out)
        return quantize_model(original, options, report, progress or Progress(), ranks)

    run = cheapest(run_with, options, gate.held_out if gate else None) if recipe == AUTO else run_with(options)
    if ranks.rank:
        return None
    report = run.report
    report.gate = gate.missed(report) if gate else ""
    for name, file in files.items():
        write_model(run.results[name], file)
        report.targets[name].file = str(file)
    if page is not None:
        some = run.domain.from_rgb(run.training[:SHOWN])  # that reverses colours, back as well
        write_bytes(show(report, contact_sheet(some, None, report.images)).encode(), Path(page))
    return Quantized(run.results, report)


def synth(
    model: str | Path,
    count: int = 128,
    *,
    output: str | Path | None = None,
    sheet: str | Path | None = None,
    images: str | Path | None = None,
    source: str | None = None,
    aims: Sequence[str] = (),
    effort: int | None = None,
    time_budget: float | None = None,
    cache: str | Path | None = None,
    domain: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float = 1.0,
    order: Literal["RGB", "BGR"] = "RGB",
    input_shape: Sequence[int] | None = None,
    device: Device = "auto",
    seed: int = 0,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Synthesized | None:
    """Make ``count`` images for a float ONNX file; None in all processes of torchrun but the first.

    output: an npz for them. sheet: a PNG that shows up to 64 of them. images: a folder or npz to start from. source:
    see ``onnxdfq.images.sources.KINDS``. effort: 1 to 5; time_budget: seconds, instead of it. cache: a folder where
    images are kept, shard by shard. Everything else is as in ``onnxdfq.quantize``.

    Raises OnnxdfqError for whatever can be mended from outside.
    """
    if count < 1:
        raise OnnxdfqError(f"-n {count}: there is nothing to make", "give 1 or more")
    options = Options(
        source=source or (STARTS_FROM_IMAGES if images is not None else None),
        effort=effort,
        time_budget=time_budget,
        domain=domain,
        scale=scale,
        order=order,
        device=device,
        seed=seed,
        **about_images(images, aims, cache, mean, std, input_shape),
    )
    path = Path(model)
    original = read_model(path)
    run = Run(options, progress or Progress(), original, Report(str(path), size_on_disk(path), {}))
    for name, stage in BEFORE_IMAGES:
        with run.progress.stage(name):
            stage(run)
    with run.progress.stage("make images"):
        batch = make(run, count, ranks)
    if batch is None:
        return None
    with run.progress.stage("judge images"):
        judge(run, batch.pixels)
    run.report.stages = {name: round(seconds, 3) for name, seconds in run.progress.seconds.items()}
    run.report.peak_mb = round(peak_megabytes(), 1)
    pixels = run.domain.from_rgb(batch.pixels)  # that reverses colours, back as well
    if output is not None:
        write_images(Path(output), pixels, batch.labels)
    if sheet is not None:
        title = f"{path.name}: {len(pixels)} images, {run.report.images}, seed {seed}"
        write_bytes(contact_sheet(pixels, batch.labels, title), Path(sheet))
    return Synthesized(pixels, batch.labels, run.report)


def output_files(model: Path, bits: str, targets: Sequence[str], output: Path | None) -> dict[str, Path]:
    """Where the model of each target goes: ``output`` is a file for one target, a folder for several; by default
    model.<target>.int<bits>.onnx beside the input."""
    names = {target: f"{model.stem}.{target}.int{bits}.onnx" for target in targets}
    if output is None:
        return {target: model.parent / name for target, name in names.items()}
    if len(names) == 1 and not output.is_dir():
        return dict.fromkeys(names, output)
    return {target: output / name for target, name in names.items()}


def about_images(
    images: str | Path | None,
    aims: Sequence[str],
    cache: str | Path | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    input_shape: Sequence[int] | None,
) -> dict[str, Any]:
    """The options of images that callers may give in looser types."""
    return {
        "images": Path(images) if images is not None else None,
        "aims": read_aims(aims),
        "cache": Path(cache) if cache is not None else None,
        "mean": tuple(mean) if mean is not None else None,
        "std": tuple(std) if std is not None else None,
        "input_shape": tuple(input_shape) if input_shape is not None else None,
    }
