"""What a run knows: the stages of the pipeline read it and write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxdfq.bits import Bits
from onnxdfq.config import Options
from onnxdfq.console import Progress
from onnxdfq.images.domain import InputDomain
from onnxdfq.images.guides import Guides
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.overrides import Overrides
from onnxdfq.report.report import Report
from passes.fold_batchnorm import ChannelStats
from passes.placement import Placement
from passes.plan import QuantPlan

REFERENCE_PIXELS = 224 * 224
MOST_IMAGES = 128
CALIBRATION_IMAGES = 32  # at 224x224; smaller images come in larger numbers at the same cost
TRAINING_IMAGES, MOST_TRAINING_IMAGES = 96, 512  # the same where the graph learns from them
GIVEN_TIMES = 4  # images that the user has are taken in larger numbers than synthetic ones, but not endlessly


@dataclass
class Run:
    """Everything a run knows. ``original`` is what verification compares with; ``model`` is what stages rewrite."""

    options: Options
    progress: Progress
    original: onnx.ModelProto
    report: Report
    ranks: Ranks = ALONE
    model: onnx.ModelProto = field(init=False)
    canonical: onnx.ModelProto = field(init=False)  # as model was before BatchNormalization was folded
    graph: gs.Graph = field(init=False)
    into: ModelInput = field(init=False)
    domain: InputDomain = field(init=False)
    guides: Guides = field(init=False)
    labelled: tuple[np.ndarray, np.ndarray] | None = None  # pixels and labels to count on
    given: np.ndarray | None = None  # pixels that the user has to calibrate with; RGB until the domain is known
    # pixels [N, C, H, W] to learn from or to choose by, those to calibrate with first
    training: np.ndarray = field(init=False)
    calibration: np.ndarray = field(init=False)
    held_out: np.ndarray = field(init=False)
    judges: Mapping[str, np.ndarray] = field(init=False)  # by kind, see images/judges.py
    placements: dict[str, Placement] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=Overrides)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # of all tensors that some target may want
    expected: dict[str, np.ndarray] = field(default_factory=dict)  # layer -> mean of each channel of its output
    statistics: dict[str, ChannelStats] = field(default_factory=dict)  # of what a BatchNormalization wrote
    gains: dict[str, np.ndarray] = field(default_factory=dict)  # what folding multiplied into the weights before it
    bits: dict[str, Bits] = field(default_factory=dict)
    plans: dict[str, QuantPlan] = field(default_factory=dict)
    rounding: dict[str, str] = field(default_factory=dict)  # how weights were rounded, in words
    learning: dict[str, str] = field(default_factory=dict)  # what learning came to, in words
    results: dict[str, onnx.ModelProto] = field(default_factory=dict)
    corrected: dict[str, onnx.ModelProto] = field(default_factory=dict)  # the same with corrected biases

    def __post_init__(self) -> None:
        self.model = self.original

    def again(self, options: Options, report: Report) -> Run:
        """Another run for the same model and the same images, from where BatchNormalization still stands."""
        other = Run(options, self.progress, self.original, report, self.ranks)
        other.model = other.canonical = self.canonical
        other.graph = gs.import_onnx(self.canonical)
        for name in ("into", "domain", "guides", "labelled", "given", "training", "calibration", "held_out",
                     "judges"):  # fmt: skip
            setattr(other, name, getattr(self, name))
        return other

    def layers(self, target: str) -> dict[str, gs.Node]:
        """The layers whose weights the plan for this target quantizes, by name."""
        planned = self.plans[target].tensors
        names = {site.layer for weights, site in self.placements[target].weights.items() if weights in planned}
        return {node.name: node for node in self.graph.nodes if node.name in names}

    def whole(self, images: int) -> int:
        """That many images or a few more, so that the batches the model insists on are full."""
        size = self.into.batch or 1
        return -(-images // size) * size

    def affordable(self, images: int, most: int | None = None) -> int:
        """How many images of this model's size cost as much as ``images`` of 224x224; not few, and not endless."""
        count = images * REFERENCE_PIXELS // (self.into.height * self.into.width)
        return self.whole(int(np.clip(count, 8, MOST_IMAGES if most is None else most)))

    @property
    def held(self) -> int:
        """How many synthetic images are held out."""
        calibration = self.affordable(CALIBRATION_IMAGES)
        return calibration if self.options.many_images else self.whole(calibration // 2)

    @property
    def wanted(self) -> int:
        """How many synthetic images a run takes: to calibrate with, to learn from or choose by, and those held out."""
        if self.options.many_images:
            return self.affordable(TRAINING_IMAGES, MOST_TRAINING_IMAGES) + self.held
        return self.affordable(CALIBRATION_IMAGES) + self.held

    @property
    def most_given(self) -> int:
        """How many images it takes at most of those that the user has."""
        return GIVEN_TIMES * self.wanted

    def to_judge(self) -> dict[str, list[dict[str, np.ndarray]]]:
        """The images that judge as feeds for the model, by kind."""
        return {kind: self.batches(pixels, first=len(self.training)) for kind, pixels in self.judges.items()}

    def batches(self, pixels: np.ndarray, first: int = 0) -> list[dict[str, np.ndarray]]:
        """Pixels as feeds for the model, in batches that it accepts, small enough for all activations of one. first:
        the number of the first image, see ModelInput.feeds."""
        fitting = int(np.clip(REFERENCE_PIXELS // (self.into.height * self.into.width), 1, 64))
        size = self.into.batch or fitting
        whole = len(pixels) // size * size if self.into.batch else len(pixels)
        parts = [self.domain.to_model(pixels[k : k + size], self.into) for k in range(0, whole, size)]
        return self.into.feeds(parts, first)
