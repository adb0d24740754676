"""From a float model to levels, and to what decides between them.

images of all difficulties -> levels, quantized one by one on the same images -> answers of all levels
-> thresholds of a cascade, a router at the same cost -> the better one on held-out images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnxdfq.config import Options
from onnxdfq.console import Progress, peak_megabytes
from onnxdfq.dynamic.answers import Answers, ask
from onnxdfq.dynamic.bundle import Input, LevelFile, Manifest, level_file
from onnxdfq.dynamic.cascade import Cascade, Wanted, fit
from onnxdfq.dynamic.costs import bit_operations
from onnxdfq.dynamic.decide import Outcome, Prices, outcome_of_cascade, outcome_of_router, verdict
from onnxdfq.dynamic.frontier import cascades, prices_between, single
from onnxdfq.dynamic.level import FLOATS, Level
from onnxdfq.dynamic.report import DynamicReport, LevelReport, Point, about_speed
from onnxdfq.dynamic.single_file import with_cascade, with_router
from onnxdfq.emit import restore_interface
from onnxdfq.engine.ort import SERIALIZED_LIMIT, Session
from onnxdfq.errors import OnnxdfqError
from onnxdfq.pipeline import BEFORE_IMAGES, WITH_IMAGES, prepare, quantize_prepared
from onnxdfq.report.curves import curves
from onnxdfq.report.report import Report
from onnxdfq.run import Run
from onnxdfq.verify.agreement import are_probabilities
from onnxdfq.verify.latency import paired_milliseconds
from passes.base import Pass, run_passes
from passes.float16 import Float16
from passes.fold_batchnorm import FoldBatchNorm
from passes.plan import QuantPlan

DIFFICULT = 0.5  # of the images, unless the user says otherwise
FEWEST = 32  # images that thresholds are fitted on, beside those that levels were made with
SPARE = 0.5  # points of agreement below the dearest level that an image may cost, unless the user says otherwise


@dataclass(frozen=True)
class Dynamic:
    """manifest: without the hashes that writing adds. models: of the levels. single: all in one file; None where the
    model takes no single image. router: where one decides. curve: a PNG."""

    manifest: Manifest
    models: list[onnx.ModelProto]
    single: onnx.ModelProto | None
    router: onnx.ModelProto | None
    report: DynamicReport
    curve: bytes


def build(
    original: onnx.ModelProto,
    base: Options,
    levels: Sequence[Level],
    wanted: Wanted | None,
    report: Report,
    progress: Progress,
) -> Dynamic:
    """wanted: None for half a point of agreement below the dearest level; a cost is a share of that of this level.

    Raises OnnxdfqError for whatever a user can mend.
    """
    if (base.source or base.way.source) == "inversion" and not (base.aims.difficult or base.aims.boundary):
        base = replace(base, aims=replace(base.aims, difficult=DIFFICULT))
    run = Run(base, progress, original, report)
    before = len(BEFORE_IMAGES)
    prepare(run, WITH_IMAGES[:before])
    _check(run)  # now, for a mistake should not cost the minutes that images take
    prepare(run, WITH_IMAGES[before:])
    return _Building(run, levels).build(wanted)


def _check(run: Run) -> None:
    if not run.guides.classes:
        hint = "--recipe dynadfq is for classifiers" + (
            ", --aim unlabelled for others" if run.options.aims.unlabelled else ""
        )
        raise OnnxdfqError("the first output is no vector of class scores", hint)
    if run.into.others:
        raise OnnxdfqError("the model has several inputs", "--recipe dynadfq is for models of one image")
    if run.into.dtype != np.float32:
        raise OnnxdfqError("the model reads uint8", "--recipe dynadfq is for models that read float32")
    if run.original.ByteSize() >= SERIALIZED_LIMIT:
        raise OnnxdfqError("the model is larger than 2 GB", "--recipe dynadfq is for smaller ones")
    size = run.into.batch or 2
    image = np.zeros(run.into.shape(size), np.float32)
    for name, values in Session(run.original).run({run.into.name: image}).items():
        if not np.ndim(values) or len(values) != size:
            raise OnnxdfqError(f"output {name} has no row for each image", "--recipe dynadfq sorts images by level")


class _Building:
    """The state of it."""

    def __init__(self, run: Run, levels: Sequence[Level]) -> None:
        self.run, self.levels, self.target = run, levels, run.options.targets[0]
        self.models: list[onnx.ModelProto] = []
        self.bitops: list[float] = []
        self.reports: list[Report | None] = []
        # What the levels were calibrated on, or learned from, is no test of them
        count = len(run.training) // 2 if run.options.iterations is not None else len(run.calibration)
        count = count // run.whole(1) * run.whole(1)
        if len(run.training) - count < FEWEST:
            count = 0  # a few given images have to do for both
        self.taught = run.training[:count]
        for level in levels:
            self._make(level)
        with run.progress.stage("ask all levels"):
            self.original = Session(run.original, run.options.device)
            self.sessions = [Session(model, run.options.device) for model in self.models]
            some = next(iter(self.original.run(self._feeds()).values()))
            self.probabilities = are_probabilities(some.reshape(len(some), -1))
            self.pixels = run.training[len(self.taught) :]
            self.fitting, self.held_out = self._ask(self.pixels), self._ask(run.held_out)
        with run.progress.stage("measure latency"):
            size = run.whole(1)
            times = paired_milliseconds(self.sessions, self._feeds(), run.options.seed)
            by_time = any(level.float_type for level in levels)
            self.prices = Prices(tuple(self.bitops), tuple(time / size for time in times), by_time)

    def build(self, wanted: Wanted | None) -> Dynamic:
        run, prices = self.run, self.prices
        if wanted is None:
            wanted = Wanted(agreement=100 * float(self.fitting.right[-1].mean()) - SPARE)
        elif wanted.cost is not None:
            wanted = Wanted(cost=wanted.cost * max(prices.costs))
        with run.progress.stage("fit thresholds"):
            cascade = fit(self.fitting, prices.costs, wanted)
            of_cascade = outcome_of_cascade(self.held_out, self.held_out.right, cascade, prices)
        with run.progress.stage("train a router"):
            goal = outcome_of_cascade(self.fitting, self.fitting.right, cascade, prices).cost
            router = _Routing(self, goal) if len(cascade.levels) > 1 else None
        of_router = (
            router.outcome(router.numbers(run.held_out), self.held_out.right, router.leaning) if router else None
        )
        lacking = f"level {self.levels[cascade.levels[0]].name} alone is enough: there is nothing to choose"
        routed, why = verdict(of_cascade, of_router, lacking)
        labelled = self._labelled() if run.labelled is not None else None
        points = self._points(router, labelled)
        report = self._report(cascade, why, routed, of_cascade, of_router, points)
        if labelled is not None:
            self._count_on_labelled(report, labelled, cascade, router if routed else None)
        curve = self._curve(report, labelled)
        manifest = Manifest(
            model=run.report.model,
            target=self.target,
            decision="router" if routed else "cascade",
            probabilities=self.probabilities,
            input=self._input(),
            outputs=tuple(entry.name for entry in run.original.graph.output),
            levels=tuple(
                LevelFile(level.name, level_file(number), bitops, time)
                for number, (level, bitops, time) in enumerate(
                    zip(self.levels, prices.bitops, prices.milliseconds, strict=True)
                )
            ),
            asked=() if routed else cascade.levels,
            thresholds=() if routed else cascade.thresholds,
            leaning=tuple(map(float, router.leaning)) if router and routed else (),
            router_bitops=router.cost[0] if router and routed else 0.0,
        )
        single, lacking = self._single(cascade, router if routed else None)
        if lacking:
            report.notices.append(f"no single file that decides image by image: {lacking}")
        report.prepared.stages = {name: round(seconds, 3) for name, seconds in run.progress.seconds.items()}
        report.prepared.peak_mb = round(peak_megabytes(), 1)
        return Dynamic(manifest, self.models, single, router.model if router and routed else None, report, curve)

    def _single(self, cascade: Cascade, router: _Routing | None) -> tuple[onnx.ModelProto | None, str]:
        """All in one file, or why there is none."""
        run = self.run
        if run.into.batch not in (None, 1):
            return None, f"the model takes {run.into.batch} images at once"
        try:
            single = (
                with_router(self.models, router.model, router.leaning)
                if router
                else with_cascade(self.models, cascade, probabilities=self.probabilities)
            )
            if single.ByteSize() >= SERIALIZED_LIMIT:
                return None, "it would be larger than 2 GB"
            Session(single)  # refuses what it can't run
        except (OnnxdfqError, ValueError) as error:
            return None, str(error)
        _describe(single, run.original)
        return single, ""

    # -- levels

    def _make(self, level: Level) -> None:
        run, size = self.run, self.run.whole(1)
        one = run.into.shapes(size)
        if level.float_type:
            with run.progress.stage(f"write level {level.name}"):
                model, width = _in_float(run, level)
            self.models.append(model)
            self.reports.append(None)
            self.bitops.append(bit_operations(run.canonical, one, None, width) / size)
            return
        made = run.again(level.options(run.options), replace(run.report, notices=[], targets={}, stages={}))
        if len(self.taught):
            made.training = self.taught
        quantize_prepared(made, f"level {level.name}")
        plan: QuantPlan = made.plans[self.target]
        self.models.append(made.results[self.target])
        self.reports.append(made.report)
        self.bitops.append(bit_operations(made.model, one, plan) / size)
        run.report.notices += [f"level {level.name}: {notice}" for notice in made.report.notices]

    # -- answers

    def _feeds(self) -> dict[str, np.ndarray]:
        return self.run.batches(self.run.training[: self.run.whole(1)])[0]

    def _ask(self, pixels: np.ndarray) -> Answers:
        batches = self.run.batches(pixels)
        return ask(self.original, self.sessions, batches, probabilities=self.probabilities)

    def _input(self) -> Input:
        into, domain = self.run.into, self.run.domain
        return Input(into.name, into.shape(1), into.layout, into.batch, domain.mean, domain.std, domain.order)

    # -- what is said of it

    def _labelled(self) -> _Labelled:
        assert self.run.labelled is not None
        pixels, labels = self.run.labelled
        pixels = self.run.domain.from_rgb(pixels)
        answers = self._ask(pixels)
        labels = labels[: len(answers.original)]
        right = np.stack([each.argmax(1) == labels for each in answers.levels])
        return _Labelled(pixels, answers, right, 100 * float((answers.original.argmax(1) == labels).mean()))

    def _points(self, router: _Routing | None, labelled: _Labelled | None) -> list[Point]:
        """Trades that the same levels offer."""
        prices, held, found = self.prices, self.held_out, []
        for cascade in cascades(self.fitting, prices.costs):
            known = outcome_of_cascade(labelled.answers, labelled.right, cascade, prices) if labelled else None
            synthetic = outcome_of_cascade(held, held.right, cascade, prices)
            found.append(Point(synthetic, known, cascade.levels, cascade.thresholds))
        if router is None:
            return found
        unseen = router.numbers(self.run.held_out)
        real = router.numbers(labelled.pixels) if labelled else None
        for cost in prices_between(prices.costs):
            leaning = router.leaning_for(cost)
            known = router.outcome(real, labelled.right, leaning) if labelled and real is not None else None
            found.append(Point(router.outcome(unseen, held.right, leaning), known, leaning=tuple(map(float, leaning))))
        return found

    def _report(
        self,
        cascade: Cascade,
        why: str,
        routed: bool,
        of_cascade: Outcome,
        of_router: Outcome | None,
        points: list[Point],
    ) -> DynamicReport:
        right, far = self.held_out.right, self.held_out.divergence
        levels = [
            LevelReport(level.name, bitops, time, 100 * float(right[number].mean()), float(far[number].mean()),
                        quantized=self._of_target(number))
            for number, (level, bitops, time) in enumerate(
                zip(self.levels, self.prices.bitops, self.prices.milliseconds, strict=True))
        ]  # fmt: skip
        report = DynamicReport(
            prepared=self.run.report,
            target=self.target,
            unit="ms" if self.prices.by_time else "BitOPs",
            levels=levels,
            decision="router" if routed else "cascade",
            why=why,
            asked=cascade.levels,
            thresholds=cascade.thresholds,
            synthetic=of_router if routed and of_router else of_cascade,
            other=of_cascade if routed else of_router,
            points=points,
        )
        slow = about_speed(levels)
        report.notices = [*self.run.report.notices, *([slow] if slow else [])]
        return report

    def _of_target(self, number: int) -> dict[str, object] | None:
        report = self.reports[number]
        return None if report is None else report.to_json()["targets"][self.target]

    def _count_on_labelled(
        self, report: DynamicReport, labelled: _Labelled, cascade: Cascade, router: _Routing | None
    ) -> None:
        """The same on labelled images, for which nothing was fitted."""
        report.accuracy = labelled.accuracy
        report.levels = [replace(level, accuracy=share) for level, (_, share) in
                         zip(report.levels, single(self.prices.costs, labelled.right), strict=True)]  # fmt: skip
        report.labelled = (
            router.outcome(router.numbers(labelled.pixels), labelled.right, router.leaning)
            if router
            else outcome_of_cascade(labelled.answers, labelled.right, cascade, self.prices)
        )

    def _curve(self, report: DynamicReport, labelled: _Labelled | None) -> bytes:
        """Cost of a mean image against images answered rightly."""
        costs = self.prices.costs
        panels = {"held-out synthetic images: percent at the float model's class":
                  _lines(report, single(costs, self.held_out.right), "synthetic")}  # fmt: skip
        if labelled is not None:
            title = f"labelled images: percent right (float model {labelled.accuracy:.2f})"
            panels[title] = _lines(report, single(costs, labelled.right), "labelled")
        return curves(panels, f"{self.run.report.model}, over {report.unit} of a mean image")


def _lines(report: DynamicReport, levels: list[tuple[float, float]], of: str) -> dict[str, list[tuple[float, float]]]:
    def places(points: list[Point]) -> list[tuple[float, float]]:
        outcomes = [getattr(point, of) for point in points]
        return sorted((outcome.cost, outcome.right) for outcome in outcomes)

    chosen: Outcome = getattr(report, of)
    by_router = places([point for point in report.points if point.leaning])
    return {
        "levels, by lot between them": sorted(levels),
        "cascade": places([point for point in report.points if point.asked]),
        **({"router": by_router} if by_router else {}),
        f"chosen: {report.decision}": [(chosen.cost, chosen.right)],
    }


@dataclass(frozen=True)
class _Labelled:
    """pixels: as the model orders channels. right: [L, N]. accuracy: of the float model, in percent."""

    pixels: np.ndarray
    answers: Answers
    right: np.ndarray
    accuracy: float


class _Routing:
    """A router that costs what the cascade does."""

    def __init__(self, building: _Building, goal: float) -> None:
        from onnxdfq.dynamic.router import train  # torch

        run, self._building = building.run, building
        images = run.domain.to_model(building.pixels, replace(run.into, layout="NCHW"))[
            : len(building.fitting.original)
        ]
        prices = building.prices
        trained = train(images, building.fitting, prices.costs, goal, run.into, run.options.seed)
        self.model, self._session = trained.model, Session(trained.model, run.options.device)
        (time,) = paired_milliseconds([self._session], building._feeds(), run.options.seed)
        bitops = bit_operations(self.model, run.into.shapes(1), None)
        self.cost = (bitops, time / run.whole(1))
        self._learned_from = trained.numbers
        self.leaning = self.leaning_for(goal)

    def leaning_for(self, cost: float) -> np.ndarray:
        """That with which a mean image costs ``cost``, the router included."""
        from onnxdfq.dynamic.router import leaning

        prices = self._building.prices
        own = self.cost[1] if prices.by_time else self.cost[0]
        return leaning(self._learned_from, prices.costs, cost - own)

    def numbers(self, pixels: np.ndarray) -> np.ndarray:
        """[N, L] that it says."""
        batches = self._building.run.batches(pixels)
        return np.concatenate([next(iter(outputs.values())) for outputs in self._session.stream(batches)])

    def outcome(self, numbers: np.ndarray, right: np.ndarray, leaning: np.ndarray) -> Outcome:
        """right: [L, N] whether a level answers an image rightly."""
        return outcome_of_router((numbers + leaning).argmax(1), right, self.cost, self._building.prices)


def _in_float(run: Run, level: Level) -> tuple[onnx.ModelProto, int]:
    """The float model as this level, BatchNormalization folded, and the bits that it computes with."""
    graph = gs.import_onnx(run.canonical)
    half: list[Pass] = [Float16()] if level.float_type == "float16" else []
    results = run_passes(graph, [FoldBatchNorm(), *half])
    run.report.notices += [f"level {level.name}: {skip.node}: {skip.reason}" for skip in results[-1].skips if half]
    model = gs.export_onnx(graph)
    model.producer_name = "onnxdfq"
    _describe(model, run.original)
    restore_interface(model, run.original)
    return model, FLOATS[level.name][1] if not half or results[-1].changed else FLOATS["fp32"][1]


def _describe(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """The metadata of the original, names of classes say."""
    helper.set_model_props(model, {entry.key: entry.value for entry in original.metadata_props})
