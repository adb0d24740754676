"""What `onnxdfq quantize` does, as one list of stages. Each reads what earlier ones left in the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxdfq.calibrate.bias_correction import channel_means, correct_biases
from onnxdfq.calibrate.observers import bounds, default_method
from onnxdfq.calibrate.ranges import observe
from onnxdfq.config import RECIPES, Options
from onnxdfq.console import Progress, peak_megabytes
from onnxdfq.emit import finished, rounded, with_qdq
from onnxdfq.engine.operators import unsupported
from onnxdfq.engine.ort import SERIALIZED_LIMIT, Session, cuda_driver, tapped
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.domain import InputDomain, given, preset
from onnxdfq.images.guides import Guides, guides
from onnxdfq.images.infer_domain import infer_domain
from onnxdfq.images.model_input import ModelInput, model_input
from onnxdfq.images.procedural import procedural
from onnxdfq.model_file import with_shapes
from onnxdfq.overrides import Overrides, resolve
from onnxdfq.plan_file import check_plan
from onnxdfq.report.report import Report, TargetReport
from onnxdfq.simplify import simplified
from onnxdfq.verify.agreement import agreement
from onnxdfq.verify.kernels import kernels
from onnxdfq.verify.labelled import accuracy, read_labelled
from passes.allocate_bits import uniform_bits
from passes.base import run_passes
from passes.canonicalize import CANONICAL
from passes.fold_batchnorm import FoldBatchNorm
from passes.integer_forms import INTEGER_FORMS
from passes.placement import CONVOLUTIONS, WEIGHTED, Placement, place
from passes.plan import QuantPlan, decide
from passes.stored_weights import stored_weights
from passes.targets import TARGETS

REFERENCE_PIXELS = 224 * 224
CALIBRATION_IMAGES = 32  # at 224x224; smaller images come in larger numbers at the same cost
MOST_IMAGES = 128
CORRECTION_IMAGES = 8  # means need fewer images than ranges, and all of these are in memory at once


@dataclass
class Run:
    """Everything a run knows. ``original`` is what verification compares with; ``model`` is what stages rewrite."""

    options: Options
    progress: Progress
    original: onnx.ModelProto
    report: Report
    model: onnx.ModelProto = field(init=False)
    graph: gs.Graph = field(init=False)
    into: ModelInput = field(init=False)
    domain: InputDomain = field(init=False)
    guides: Guides = field(init=False)
    labelled: tuple[np.ndarray, np.ndarray] | None = None  # pixels and labels to count on
    calibration: np.ndarray = field(init=False)  # pixels [N, C, H, W]
    held_out: np.ndarray = field(init=False)
    placements: dict[str, Placement] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=Overrides)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # of all tensors that some target may want
    expected: dict[str, np.ndarray] = field(default_factory=dict)  # layer -> mean of each channel of its output
    plans: dict[str, QuantPlan] = field(default_factory=dict)
    results: dict[str, onnx.ModelProto] = field(default_factory=dict)
    corrected: dict[str, onnx.ModelProto] = field(default_factory=dict)  # the same with corrected biases

    def __post_init__(self) -> None:
        self.model = self.original

    def layers(self, target: str) -> dict[str, gs.Node]:
        """The layers whose weights the plan for this target quantizes, by name."""
        planned = self.plans[target].tensors
        names = {site.layer for weights, site in self.placements[target].weights.items() if weights in planned}
        return {node.name: node for node in self.graph.nodes if node.name in names}

    def whole(self, images: int) -> int:
        """That many images or a few more, so that the batches the model insists on are full."""
        size = self.into.batch or 1
        return -(-images // size) * size

    def affordable(self, images: int) -> int:
        """How many images of this model's size cost as much as ``images`` of 224x224; not few, and not endless."""
        count = images * REFERENCE_PIXELS // (self.into.height * self.into.width)
        return self.whole(int(np.clip(count, 8, MOST_IMAGES)))

    def batches(self, pixels: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Pixels as feeds for the model, in batches that it accepts, small enough for all activations of one."""
        fitting = int(np.clip(REFERENCE_PIXELS // (self.into.height * self.into.width), 1, 64))
        size = self.into.batch or fitting
        whole = len(pixels) // size * size if self.into.batch else len(pixels)
        return [{self.into.name: self.domain.to_model(pixels[k : k + size], self.into)} for k in range(0, whole, size)]


def quantize_model(original: onnx.ModelProto, options: Options, report: Report, progress: Progress) -> Run:
    """Run all stages. The quantized models are in ``results`` by target, what was found in ``report``.

    Raises OnnxdfqError for whatever a user can mend.
    """
    run = Run(options, progress, original, report)
    for name, stage in STAGES:
        with progress.stage(name):
            stage(run)
    for target in options.targets:
        for name, step in TARGET_STAGES:
            with progress.stage(f"{name} ({target})"):
                step(run, target)
    report.stages = {name: round(seconds, 3) for name, seconds in progress.seconds.items()}
    report.peak_mb = round(peak_megabytes(), 1)
    return run


def float_graph(original: onnx.ModelProto, options: Options, report: Report, progress: Progress) -> gs.Graph:
    """The graph that plans are made for: simplified, canonical, BatchNormalization folded. No images are made."""
    run = Run(options, progress, original, report)
    for stage in (_find_input, _simplify, _canonicalize, _fold):
        stage(run)
    return gs.import_onnx(run.model)


# -- once for all targets


def _find_input(run: Run) -> None:
    session = Session(run.original)

    def runs(candidate: ModelInput) -> bool:
        try:
            session.run({candidate.name: np.zeros(candidate.shape(candidate.batch or 1), candidate.dtype)})
        except Exception:  # onnxruntime raises a class per error code; whichever it is, this size does not fit
            return False
        return True

    run.into = model_input(run.original, runs, run.options.input_shape)
    shape = "x".join(map(str, run.into.shape(run.into.batch or 1)))
    run.report.input = f"{run.into.name} {shape} {run.into.layout}"
    if not runs(run.into):
        raise OnnxdfqError(f"the model does not run with its input at {shape}", "check it, or give --input-shape")
    if run.into.batch is None and not runs(replace(run.into, batch=2)):
        run.into = replace(run.into, batch=1)
        run.report.notices.append("the batch is declared free, but the model runs with one image only")
    if run.options.evaluate is not None:  # now, for a mistake in it should not cost minutes
        run.labelled = read_labelled(run.options.evaluate, run.into)


def _simplify(run: Run) -> None:
    rng = np.random.default_rng(run.options.seed)
    shape = run.into.shape(run.into.batch or 1)
    feeds = {run.into.name: rng.uniform(0, 255 if run.into.dtype == np.uint8 else 1, shape).astype(run.into.dtype)}
    run.model, reason = simplified(run.original, lambda model: list(Session(model).run(feeds).values()))
    if reason:
        run.report.notices.append(f"not simplified: {reason}")


def _canonicalize(run: Run) -> None:
    run.graph = gs.import_onnx(with_shapes(run.model))
    run_passes(run.graph, CANONICAL)
    run.model = gs.export_onnx(run.graph)
    run.guides = guides(run.model)
    for target in run.options.targets:
        if not place(run.graph, TARGETS[target]).weights:
            hint = "`onnxdfq inspect` lists its layers and why"
            raise OnnxdfqError(f"the model has no layer that can be quantized for {target}", hint)


def _find_domain(run: Run) -> None:
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


def _make_images(run: Run) -> None:
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


def _fold(run: Run) -> None:
    fold = FoldBatchNorm()
    result, *_ = run_passes(run.graph, [fold, *INTEGER_FORMS])
    kept = sum(node.op == "BatchNormalization" for node in run.graph.nodes)
    run.report.batchnorm = f"{result.changed} folded, {kept} kept" if result.changed or kept else "none in the graph"
    run.report.notices += [f"{skip.node} not folded: {skip.reason}" for skip in result.skips]
    run.model = with_shapes(gs.export_onnx(run.graph))


def _calibrate(run: Run) -> None:
    run.overrides = resolve(run.options.overrides, {node.name: node.op for node in run.graph.nodes})
    # Of all targets, not only those asked for: the ranges are kept, and another target can be made from them later.
    wanted = sorted({name for target in TARGETS.values() for name in place(run.graph, target).tensors})
    tensors = run.graph.tensors()
    computed = [name for name in wanted if name != run.into.name and isinstance(tensors[name], gs.Variable)]
    session = Session(tapped(run.model, computed))
    batches = run.batches(run.calibration)

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for done, (feeds, outputs) in enumerate(zip(batches, session.stream(batches), strict=True), 1):
            run.progress.step(done, len(batches))
            yield {name: outputs[name] for name in computed} | feeds

    observed = observe(stream())
    # No image goes beyond the domain, and any may reach its ends.
    if run.into.name in observed:
        observed[run.into.name].add(np.array([run.domain.low, run.domain.high], np.float32))
    method = run.options.observer or default_method(8)
    run.ranges = rounded({name: bounds(values, method) for name, values in observed.items()})
    run.report.ranges = run.ranges
    for name in run.options.targets:
        run.placements[name] = place(run.graph, TARGETS[name], run.ranges, run.overrides.floats)
        if not run.placements[name].weights:
            raise OnnxdfqError(f"nothing is left to quantize for {name}", "let the configuration keep less in float")


# -- for each target


def _quantize(run: Run, target: str) -> None:
    given, placement = run.options.plan, run.placements[target]
    if given is not None and given.target == target:
        check_plan(given, run.graph)
        run.plans[target] = given
    else:
        bits = uniform_bits(
            run.graph, placement, run.options.bits, all_layers=run.options.all_layers, chosen=run.overrides.bits
        )
        run.plans[target] = decide(run.graph, run.ranges, TARGETS[target], bits, placement)
    run.results[target] = with_qdq(run.model, run.plans[target])


def _correct(run: Run, target: str) -> None:
    if not run.options.bias_correction:
        return
    layers = run.layers(target)
    names = set(layers)
    axes = {name: 1 if node.op in CONVOLUTIONS else -1 for name, node in layers.items()}
    batches = run.batches(run.calibration[: run.affordable(CORRECTION_IMAGES)])
    missing = {layers[name].outputs[0].name: axes[name] for name in sorted(names - run.expected.keys())}
    means = channel_means(run.model, missing, batches) if missing else {}
    run.expected.update({name: means[layers[name].outputs[0].name] for name in names - run.expected.keys()})
    graph = gs.import_onnx(run.results[target])
    result = correct_biases(graph, sorted(names), run.expected, axes, batches, run.progress.step)
    run.report.notices += [f"{skip.node} not corrected for {target}: {skip.reason}" for skip in result.skips]
    run.corrected[target] = gs.export_onnx(graph)


def _freeze(run: Run, target: str) -> None:
    for candidates in (run.results, run.corrected):
        if target in candidates:
            candidates[target], skips = finished(
                candidates[target], run.plans[target], run.original, run.ranges, run.options
            )
            notices = [f"{skip.node} ({target}): {skip.reason}" for skip in skips]
            run.report.notices += [notice for notice in notices if notice not in run.report.notices]


def _verify(run: Run, target: str) -> None:
    original = Session(run.original, run.options.device)
    held_out = run.batches(run.held_out)
    session = _loaded(run, run.results[target], target)
    closeness = agreement(original, session, held_out)
    correction = "not asked for"
    if target in run.corrected:  # kept only if images that took no part in it say that it helps
        candidate = _loaded(run, run.corrected[target], target)
        corrected = agreement(original, candidate, held_out)
        kept = corrected.distance <= closeness.distance
        measure = "KL" if closeness.kl is not None else "negative SQNR"
        correction = (
            f"{'kept' if kept else 'dropped'}: {measure} on held-out images without it {closeness.distance:.4g}, "
            f"with it {corrected.distance:.4g}"
        )
        if kept:
            run.results[target], session, closeness = run.corrected[target], candidate, corrected
    plan = run.plans[target]
    entry = TargetReport(
        file="",
        size=run.results[target].ByteSize(),
        layers=len(run.layers(target)),
        of=sum(node.op in WEIGHTED for node in run.graph.nodes),
        plan=plan,
        agreement=closeness,
        provider=session.provider,
        bias_correction=correction,
        weights=_weights_in_words(run.results[target], plan),
        kernels=kernels(run.results[target], _input_shape(run)) if TARGETS[target].kernels_shown else None,
    )
    if run.labelled is not None:
        pixels, labels = run.labelled
        batches = run.batches(run.domain.from_rgb(pixels))
        if run.report.accuracy is None:
            run.report.accuracy = accuracy(original, batches, labels)
        entry.accuracy = accuracy(session, batches, labels)
    run.report.targets[target] = entry


def _input_shape(run: Run) -> dict[str, tuple[int, ...]]:
    return {run.into.name: run.into.shape(run.into.batch or 1)}


def _weights_in_words(model: onnx.ModelProto, plan: QuantPlan) -> str:
    """Bits of the weights, what holds them in the file, and how many bytes they are."""
    stored = stored_weights(gs.import_onnx(model))
    bits = Counter(params.bits for name, params in plan.tensors.items() if name not in plan.readers)
    held = Counter(each.container for each in stored)
    return (
        f"{', '.join(f'{count} of {width} bits' for width, count in sorted(bits.items()))}; "
        f"stored as {', '.join(f'{count} {kind}' for kind, count in sorted(held.items()))}, "
        f"{sum(each.size for each in stored):,} bytes"
    )


def _loaded(run: Run, model: onnx.ModelProto, target: str) -> Session:
    """The model checked and loaded; a fallback from CUDA to the CPU is written down."""
    if model.ByteSize() < SERIALIZED_LIMIT:
        onnx.checker.check_model(model)
    session = Session(model, run.options.device, as_written=not TARGETS[target].kernels_shown)
    notice = "CUDA did not load into ONNX Runtime: verified on the CPU"
    fallback = run.options.device == "auto" and cuda_driver() and session.provider == "CPUExecutionProvider"
    if fallback and notice not in run.report.notices:
        run.report.notices.append(notice)
    return session


STAGES: Sequence[tuple[str, Callable[[Run], None]]] = (
    ("find the input", _find_input),
    ("simplify", _simplify),
    ("canonicalize", _canonicalize),
    ("find the input domain", _find_domain),
    ("make images", _make_images),
    ("fold BatchNormalization", _fold),
    ("calibrate", _calibrate),
)
TARGET_STAGES: Sequence[tuple[str, Callable[[Run, str], None]]] = (
    ("decide and insert Q/DQ", _quantize),
    ("correct biases", _correct),
    ("freeze weights", _freeze),
    ("verify", _verify),
)
