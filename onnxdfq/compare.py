"""What `onnxdfq compare` does: two models with the same interface, ours or a peer's, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxdfq.config import Options
from onnxdfq.console import Progress
from onnxdfq.engine.ort import Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.procedural import procedural
from onnxdfq.model_file import read_model, size_on_disk
from onnxdfq.report.report import Report, versions
from onnxdfq.run import Run
from onnxdfq.stages.images import find_domain
from onnxdfq.stages.prepare import canonicalize, find_input
from onnxdfq.verify.agreement import Agreement, agreement
from onnxdfq.verify.labelled import accuracy
from onnxdfq.verify.latency import paired_milliseconds
from onnxdfq.verify.tensors import TensorNoise, first_to_part, tensor_noise

IMAGES = 128  # of 32x32; fewer of larger ones
TENSOR_IMAGES = 8  # all tensors of a batch are in memory at once


@dataclass(frozen=True)
class Comparison:
    """first, second: files. sizes: bytes. agreement: of the second with the first. accuracies: percent, where labelled
    images were given. milliseconds: of one call, side by side; providers: that really ran. tensors: noise of those that
    both have by name; parted: the first below 20 dB."""

    first: str
    second: str
    sizes: tuple[int, int]
    images: str
    domain: str
    agreement: Agreement
    accuracies: tuple[float, float] | None
    milliseconds: tuple[float, float]
    providers: tuple[str, str]
    tensors: list[TensorNoise]
    parted: TensorNoise | None
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain lists, numbers and text."""
        return asdict(self) | {"versions": versions()}


def compare(first: Path, second: Path, options: Options, progress: Progress) -> Comparison:
    """options: images, labelled images, domain and device.

    Raises OnnxdfqError for files that are no models, and for models that read or write different things.
    """
    models = [read_model(path, quantized=True) for path in (first, second)]
    check_alike(models[0], models[1], (first, second))
    run = Run(options, progress, models[0], Report(str(first), size_on_disk(first), {}))
    with progress.stage("find the input"):
        find_input(run)
        canonicalize(run)
        find_domain(run)
    pixels, images = _pixels(run)
    with progress.stage("compare answers"):
        sessions = [Session(model, options.device) for model in models]
        found = agreement(sessions[0], sessions[1], {"": run.batches(pixels)})
    accuracies = None
    if run.labelled is not None:
        with progress.stage("count on labelled images"):
            labelled, labels = run.labelled
            one, other = (accuracy(each, run.batches(run.domain.from_rgb(labelled)), labels) for each in sessions)
            accuracies = (one, other)
    with progress.stage("compare tensors"):
        few = run.batches(pixels[: run.whole(min(TENSOR_IMAGES, len(pixels)))])
        tensors = tensor_noise(models[0], models[1], few, options.device)
    with progress.stage("measure latency"):
        one_call = run.batches(pixels[: run.whole(1)])[0]
        times = paired_milliseconds(sessions, one_call, options.seed)
    return Comparison(
        first=str(first),
        second=str(second),
        sizes=(size_on_disk(first), size_on_disk(second)),
        images=images,
        domain=run.report.domain,
        agreement=found,
        accuracies=accuracies,
        milliseconds=(times[0], times[1]),
        providers=(sessions[0].provider, sessions[1].provider),
        tensors=tensors,
        parted=first_to_part(tensors),
        notices=run.report.notices,
    )


def check_alike(first: onnx.ModelProto, second: onnx.ModelProto, paths: Sequence[Path]) -> None:
    """Raise OnnxdfqError where two models can't take each other's place: names, types and shapes of what they read and
    write; free axes fit any."""
    for kind in ("input", "output"):
        one, other = (_interface(model, kind) for model in (first, second))
        if one.keys() != other.keys():
            missing = ", ".join(sorted(one.keys() ^ other.keys()))
            raise OnnxdfqError(
                f"{paths[0].name} and {paths[1].name} are no two forms of one model: {kind}s differ ({missing})",
                "compare models with the same inputs and outputs",
            )
        for name, (element, shape) in one.items():
            element_of, shape_of = other[name]
            fits = len(shape) == len(shape_of) and all(
                a == b or not a or not b for a, b in zip(shape, shape_of, strict=True)
            )
            if element != element_of or not fits:
                types = [f"{onnx.TensorProto.DataType.Name(each)} {list(dims)}" for each, dims in
                         ((element, shape), (element_of, shape_of))]  # fmt: skip
                raise OnnxdfqError(
                    f"{kind} {name} is {types[0]} in {paths[0].name} and {types[1]} in {paths[1].name}",
                    "compare models with the same inputs and outputs",
                )


def _interface(model: onnx.ModelProto, kind: str) -> dict[str, tuple[int, tuple[int, ...]]]:
    held = {tensor.name for tensor in model.graph.initializer}
    return {
        entry.name: (
            entry.type.tensor_type.elem_type,
            tuple(dim.dim_value for dim in entry.type.tensor_type.shape.dim),
        )
        for entry in getattr(model.graph, kind)
        if entry.name not in held
    }


def _pixels(run: Run) -> tuple[np.ndarray, str]:
    """Images to compare on, and what they are: given ones, labelled ones, or drawn ones."""
    if run.given is not None:
        whole = len(run.given) // run.whole(1) * run.whole(1)
        if not whole:
            raise OnnxdfqError(f"{len(run.given)} images are too few", f"the model takes {run.whole(1)} at once")
        return run.given[:whole], f"{whole} given"
    if run.labelled is not None:
        pixels = run.domain.from_rgb(run.labelled[0])
        return pixels, f"{len(pixels)} labelled"
    count, into = run.affordable(IMAGES // 4), run.into
    rng = np.random.default_rng([run.options.seed, *b"compare"])
    return procedural(count, into.channels, into.height, into.width, rng), f"{count} drawn"
