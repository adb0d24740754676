"""From the file to the graph that everything else works on: simplified, canonical, BatchNormalization folded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxdfq.config import Options
from onnxdfq.console import Progress
from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.files import read_arrays, read_images
from onnxdfq.images.guides import guides
from onnxdfq.images.model_input import ModelInput, model_input
from onnxdfq.images.other_inputs import WORDS, check_rows
from onnxdfq.model_file import with_shapes
from onnxdfq.report.report import Report
from onnxdfq.run import Run
from onnxdfq.simplify import simplified
from onnxdfq.verify.labelled import read_labelled
from passes.absorb_bias import AbsorbHighBias
from passes.base import run_passes
from passes.canonicalize import CANONICAL
from passes.castlike_to_cast import CastLikeToCast
from passes.equalize import Equalize
from passes.fold_batchnorm import FoldBatchNorm
from passes.integer_forms import INTEGER_FORMS
from passes.placement import place


def float_graph(original: onnx.ModelProto, options: Options, report: Report, progress: Progress) -> gs.Graph:
    """The graph that plans are made for: simplified, canonical, BatchNormalization folded. No images are made."""
    run = Run(options, progress, original, report)
    for stage in (find_input, simplify, canonicalize, fold):
        stage(run)
    return gs.import_onnx(run.model)


def find_input(run: Run) -> None:
    session = Session(run.original)

    def runs(candidate: ModelInput) -> bool:
        try:
            session.run(*candidate.feeds([np.zeros(candidate.shape(candidate.batch or 1), candidate.dtype)]))
        except Exception:  # onnxruntime raises a class per error code; whichever it is, this size does not fit
            return False
        return True

    held = read_arrays(run.options.images) if run.options.images is not None else {}
    run.into = model_input(run.original, runs, run.options.input_shape, held)
    shape = "x".join(map(str, run.into.shape(run.into.batch or 1)))
    run.report.input = f"{run.into.name} {shape} {run.into.layout}"
    if not runs(run.into):
        beside = "".join(f" and {other.name} at {WORDS[other.role]}" for other in run.into.others)
        hint = "check it, or give --input-shape"
        raise OnnxdfqError(f"the model does not run with its input at {shape}{beside}", hint)
    if run.into.batch is None and not runs(replace(run.into, batch=2)):
        run.into = replace(run.into, batch=1)
        run.report.notices.append("the batch is declared free, but the model runs with one image only")
    if run.options.evaluate is not None:  # now, for a mistake in it should not cost minutes
        run.labelled = read_labelled(run.options.evaluate, run.into)
    if run.options.images is not None:
        most = run.most_given if run.options.source is None else None
        run.given, _ = read_images(run.options.images, run.into, most=most)
        check_rows(run.into.others, len(run.given))
    run.report.notices += [other.describe() for other in run.into.others]


def simplify(run: Run) -> None:
    rng = np.random.default_rng(run.options.seed)
    shape = run.into.shape(run.into.batch or 1)
    image = rng.uniform(0, 255 if run.into.dtype == np.uint8 else 1, shape).astype(run.into.dtype)
    (feeds,) = run.into.feeds([image])
    model = run.original
    if any(node.op_type == "CastLike" for node in model.graph.node):
        graph = gs.import_onnx(with_shapes(model))
        run_passes(graph, [CastLikeToCast()])
        model = gs.export_onnx(graph)
    run.model, reason = simplified(model, lambda model: list(Session(model).run(feeds).values()))
    if reason:
        run.report.notices.append(f"not simplified: {reason}")


def canonicalize(run: Run) -> None:
    run.graph = gs.import_onnx(with_shapes(run.model))
    run_passes(run.graph, CANONICAL)
    run.model = run.canonical = gs.export_onnx(run.graph)
    run.guides = guides(run.model)
    if run.options.aims.unlabelled:
        run.guides = replace(run.guides, classes=0)


def find_layers(run: Run) -> None:
    """Now, for a model without any should not cost the minutes that images take."""
    for target in run.options.targets:
        if not place(run.graph, run.options.target(target)).weights:
            hint = "`onnxdfq inspect` lists its layers and why"
            raise OnnxdfqError(f"the model has no layer that can be quantized for {target}", hint)


def fold(run: Run) -> None:
    step = FoldBatchNorm(run.statistics, run.gains)
    result, *_ = run_passes(run.graph, [step, *INTEGER_FORMS])
    kept = sum(node.op == "BatchNormalization" for node in run.graph.nodes)
    run.report.batchnorm = f"{result.changed} folded, {kept} kept" if result.changed or kept else "none in the graph"
    run.report.notices += [f"{skip.node} not folded: {skip.reason}" for skip in result.skips]
    run.model = with_shapes(gs.export_onnx(run.graph))


def equalize(run: Run) -> None:
    """Make the ranges of weights alike across layers, if that was asked for: weights with a scale for each channel gain
    nothing by it, those with one scale for all do."""
    if not run.options.equalization:
        return
    scaled, absorbed = run_passes(run.graph, [Equalize(statistics=run.statistics), AbsorbHighBias(run.statistics)])
    run.report.equalization = f"{scaled.changed} layers equalized, high biases of {absorbed.changed} absorbed"
    run.gains.clear()  # no longer all that the weights were multiplied by
    run.model = with_shapes(gs.export_onnx(run.graph))
