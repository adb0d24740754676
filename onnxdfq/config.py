"""What a run can be told, typed and checked in one place: the command line and Python share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from onnxdfq.calibrate.observers import Method
from onnxdfq.engine.ort import Device
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.aims import Aims
from onnxdfq.images.domain import PRESETS
from onnxdfq.images.schedule import EFFORTS
from onnxdfq.images.sources import KINDS, STARTS_FROM_IMAGES
from onnxdfq.recipes import PER_EPOCH, PUBLISHED, RECIPES, Recipe
from passes.plan import QuantPlan
from passes.targets import TARGETS, Target
from passes.weight_scales import Scales

BITS = range(2, 9)
WIDE = 16  # bits of activations, for targets that have them
ACTIVATIONS_KEY = "onnxdfq.activations"  # in the model's metadata: what its ranges were measured for

Compensation = Literal["dfmpc", "dfmpc+", "none"]
Rounding = Literal["nearest", "squant", "gptq"]
PlacedBy = Literal["target", "paper"]
IMAGES_SHARE = 0.4  # of a time budget, where the graph learns too


@dataclass(frozen=True)
class Options:
    """bits: of the weights, (low, high) for pairs of layers. targets: one file is made for each. recipe: see RECIPES.
    device: where gradients and verification run. seed: the same seed, model and options give the same files, byte for
    byte.

    act_bits: of the activations, None where only weights are quantized. size_budget: bytes of the weights as a share of
    those in float32, and avg_bits: bits that a weight has on average; with one of them bits are chosen for each layer.
    compensation: of the low-bit layers of pairs, None for the default. rounding, scales: of the weights, None for what
    suits the recipe and the bits. equalization: ranges of weights are made alike across
    layers first.

    domain: a preset by name; or mean and std with scale, as in x = (pixel * scale - mean) / std; or nothing, and the
    domain is inferred from the model. order: of colours at the model's input, with mean and std. input_shape: of the
    input, needed only where H and W are free and no usual size runs. observer: how ranges are cut, None for the
    default of the bit width. evaluate: labelled images, a folder with one folder per class, or an npz.

    images: a folder or npz of images that the user has, taken as they are, or where ``source`` starts from. source: of
    images, None for that of the recipe. aims: of inverted ones. effort: 1 to 5, how many steps they take; time_budget:
    instead, seconds for making them, and for learning from them. cache: a folder where images are kept and looked for.

    placement: of the quantizers, what the "target" gains by, or that of the "paper"s on training without data.
    iterations: of what learns, None for those of the recipe; epochs: the same, in 200s. log: a file for what happens
    while it learns. checkpoints: a folder from which a run that was killed goes on.

    all_layers: the first and the last layers get ``bits`` too, not 8. overrides: entries of a configuration file. plan:
    a decision made before, for its target. details: noise, sensitivity and clipping of each layer, and latency, are
    measured as well. compat: weights of few bits stay in 8-bit containers. float_type: of what
    stays unquantized, where the target allows it.
    """

    bits: int | tuple[int, int] = 8
    targets: tuple[str, ...] = ("tensorrt",)
    recipe: str = "balanced"
    device: Device = "auto"
    seed: int = 0
    domain: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float = 1.0
    order: Literal["RGB", "BGR"] = "RGB"
    input_shape: tuple[int, ...] | None = None
    observer: Method | None = None
    bias_correction: bool = True
    evaluate: Path | None = None
    all_layers: bool = False
    overrides: tuple[Mapping[str, Any], ...] = ()
    plan: QuantPlan | None = None
    compat: bool = False
    float_type: str = "float32"
    act_bits: int | None = 8
    size_budget: float | None = None
    avg_bits: float | None = None
    compensation: Compensation | None = None
    rounding: Rounding | None = None
    scales: Scales | None = None
    equalization: bool = False
    images: Path | None = None
    source: str | None = None
    aims: Aims = Aims()  # noqa: RUF009  (immutable)
    effort: int | None = None
    time_budget: float | None = None
    cache: Path | None = None
    placement: PlacedBy = "target"
    iterations: int | None = None
    epochs: float | None = None
    log: Path | None = None
    checkpoints: Path | None = None
    details: bool = False

    def __post_init__(self) -> None:
        self._check_bits()
        _one_of("--recipe", self.recipe, RECIPES)
        _one_of("--device", self.device, get_args(Device))
        if not self.targets:
            raise OnnxdfqError("no target given", f"choose from {', '.join(TARGETS)}")
        for target in self.targets:
            _one_of("--target", target, TARGETS)
            if self.float_type not in TARGETS[target].float_types:
                known = ", ".join(TARGETS[target].float_types)
                raise OnnxdfqError(f"{target} takes no --float-type {self.float_type}", f"choose from {known}")
            self._check_activations(TARGETS[target])
        if self.plan is not None and self.plan.target not in self.targets:
            raise OnnxdfqError(f"the plan is for {self.plan.target}", f"give --target {self.plan.target}")
        if self.plan is not None and self.overrides:
            raise OnnxdfqError(
                "--plan and --config exclude each other", "edit the plan, or make it again with --config"
            )
        if self.rounding is not None:
            _one_of("--rounding", self.rounding, get_args(Rounding))
        if self.scales is not None:
            _one_of("--scales", self.scales, get_args(Scales))
        if self.compensation is not None:
            _one_of("--compensation", self.compensation, get_args(Compensation))
        if self.compensation is not None and not self.pairs:
            raise OnnxdfqError(f"--compensation {self.compensation} is for pairs", "give --bits LOW/HIGH, such as 4/8")
        if self.observer is not None:
            _one_of("--observer", self.observer, get_args(Method))
        if self.domain is not None:
            _one_of("--domain", self.domain, PRESETS)
            if self.mean or self.std:
                raise OnnxdfqError("--domain and --mean/--std exclude each other", "give one of them")
        if (self.mean is None) != (self.std is None):
            raise OnnxdfqError("--mean and --std belong together", "give both")
        self._check_images()
        self._check_tuning()

    @property
    def way(self) -> Recipe:
        """The recipe."""
        return RECIPES[self.recipe]

    @property
    def learns(self) -> int | None:
        """How many iterations the graph learns for; None where the time budget has to say."""
        if self.time_budget is not None:
            return None
        of_epochs = None if self.epochs is None else max(round(self.epochs * PER_EPOCH), 1)
        return self.iterations or of_epochs or self.way.iterations

    def without_learning(self) -> Options:
        """The same for a recipe in which nothing learns."""
        return replace(self, recipe="balanced", iterations=None, epochs=None, log=None, checkpoints=None)

    @property
    def many_images(self) -> bool:
        """Whether images do more than calibrate: something learns from them, or chooses by them."""
        return bool(self.way.tuning) or self.way.deciding

    @property
    def seconds_for_images(self) -> float | None:
        """The time budget, or its share."""
        return self.time_budget and self.time_budget * (IMAGES_SHARE if self.way.tuning else 1)

    @property
    def own_images(self) -> bool:
        """Whether the user's images are taken as they are, and none is made."""
        return self.images is not None and self.source is None

    @property
    def every_layer(self) -> bool:
        """Whether the first and the last layers get the bits asked for as well."""
        return self.all_layers or self.placement == "paper"

    @property
    def pairs(self) -> tuple[int, int] | None:
        """Bits of the low and of the high layer of each pair; None where layers are not paired."""
        return self.bits if isinstance(self.bits, tuple) else None

    @property
    def compensates(self) -> Compensation:
        """How the low-bit layers of pairs are compensated."""
        return self.compensation or ("dfmpc+" if self.pairs else "none")

    @property
    def rounds(self) -> Rounding:
        """How weights are rounded; to nearest where pairs are not compensated, or as published."""
        return self.rounding or ("nearest" if self.compensation in ("none", "dfmpc") else "gptq")

    def target(self, name: str) -> Target:
        """What the target of that name wants, as far as these options leave it to it."""
        return TARGETS[name] if self.act_bits is not None else replace(TARGETS[name], weights_only=True)

    def about_activations(self, name: str) -> str:
        """What to know of activations of so many bits on the target of that name; empty where there is nothing."""
        bits, target = self.act_bits, self.target(name)
        if bits is None or bits == 8:
            return ""
        if target.weights_only:
            return f"{name} keeps activations in float: --act-bits {bits} changes nothing there"
        if bits > 8:
            return ""
        return (
            f"activations of {bits} bits ({name}) are {2**bits} codes of {target.activation}, kept to by a Clip: for "
            "studies of accuracy and for hardware that has such, elsewhere no faster than 8 bits and often slower"
        )

    def _check_images(self) -> None:
        if self.source is not None:
            _one_of("--source", self.source, KINDS)
        if self.images is not None and self.source not in (None, STARTS_FROM_IMAGES):
            raise OnnxdfqError(
                f"--images and --source {self.source} exclude each other",
                f"only --source {STARTS_FROM_IMAGES} starts from images",
            )
        if self.aims != Aims() and (self.source or RECIPES[self.recipe].source) != "inversion":
            raise OnnxdfqError("--aim is for inverted images", "give --source inversion")
        if self.own_images:
            alone = None if self.way.tuning else self.time_budget  # learning takes time, too
            extra = {"--effort": self.effort, "--cache": self.cache, "--time-budget": alone}
            for option, value in extra.items():
                if value is not None:
                    hint = f"--source {STARTS_FROM_IMAGES} would start from them"
                    raise OnnxdfqError(f"{option} is for synthetic images; --images are taken as they are", hint)
        if self.effort is not None and self.effort not in EFFORTS:
            raise OnnxdfqError(f"--effort {self.effort} is not known", f"choose {EFFORTS[0]} to {EFFORTS[-1]}")
        if self.time_budget is not None and not 0 < self.time_budget < float("inf"):
            raise OnnxdfqError(f"--time-budget {self.time_budget:g} is no time", "give seconds, such as 120s, or 5m")
        if self.effort is not None and self.time_budget is not None:
            raise OnnxdfqError("--effort and --time-budget exclude each other", "give one of them")

    def _check_tuning(self) -> None:
        _one_of("--placement", self.placement, get_args(PlacedBy))
        if self.placement == "paper":
            for option, given in (("--act-bits none", self.act_bits is None), ("--plan", self.plan is not None)):
                if given:
                    raise OnnxdfqError(f"--placement paper and {option} exclude each other", "leave one of them out")
            if self.pairs or self.size_budget is not None or self.avg_bits is not None:
                raise OnnxdfqError("--placement paper has the same bits in every layer", "give --bits as one number")
        lengths = {"--iterations": self.iterations, "--epochs": self.epochs}
        tuning = {**lengths, "--log": self.log, "--checkpoints": self.checkpoints}
        for option, value in tuning.items():
            if value is not None and not (self.way.tuning or (self.way.deciding and option == "--iterations")):
                learning = ", ".join(name for name, recipe in RECIPES.items() if recipe.tuning)
                raise OnnxdfqError(f"{option} is for recipes that learn", f"give --recipe {learning}")
        if self.epochs is not None and self.recipe not in PUBLISHED:
            raise OnnxdfqError("--epochs are those of published schedules", "give --iterations")
        chosen = {**lengths, "--time-budget": self.time_budget}
        if sum(value is not None for value in chosen.values()) > 1:
            one, other, *_ = (name for name, value in chosen.items() if value is not None)
            raise OnnxdfqError(f"{one} and {other} exclude each other", "give one of them")
        for option, number in lengths.items():
            if number is not None and not 0 < number < float("inf"):
                raise OnnxdfqError(f"{option} {number:g} is no length of training", "give more than 0")
        if self.checkpoints is not None and self.time_budget is not None:
            hint = "give --iterations instead of --time-budget"
            raise OnnxdfqError("no run can go on from checkpoints whose length the clock chose", hint)

    def _check_bits(self) -> None:
        low, high = self.bits if isinstance(self.bits, tuple) else (self.bits, self.bits)
        if low not in BITS or high not in BITS:
            said = str(low) if isinstance(self.bits, int) else f"{low}/{high}"
            raise OnnxdfqError(f"--bits {said} is not supported", f"choose from {BITS[0]} to {BITS[-1]}")
        if low > high:
            raise OnnxdfqError(f"--bits {low}/{high} has the higher number first", f"give {high}/{low}")
        if self.size_budget is not None and not 0 < self.size_budget < 1:
            raise OnnxdfqError(f"--size-budget {self.size_budget:g} is no share", "give one such as 0.15")
        if self.avg_bits is not None and not BITS[0] <= self.avg_bits <= BITS[-1]:
            raise OnnxdfqError(f"--avg-bits {self.avg_bits:g} is not supported", f"choose from {BITS[0]} to {BITS[-1]}")
        chosen = {
            "--bits": self.bits != 8,
            "--size-budget": self.size_budget is not None,
            "--avg-bits": self.avg_bits is not None,
        }
        decided = {"--act-bits": self.act_bits != 8, "--scales": self.scales is not None}
        if self.plan is not None and any((chosen | decided).values()):
            option = next(name for name, given in (chosen | decided).items() if given)
            raise OnnxdfqError(f"--plan and {option} exclude each other", "edit the plan, or make it again")
        if sum(chosen.values()) > 1:
            one, other, *_ = (name for name, given in chosen.items() if given)
            raise OnnxdfqError(f"{one} and {other} exclude each other", "give one of them")

    def _check_activations(self, target: Target) -> None:
        bits = self.act_bits
        if bits is not None and bits not in (*BITS, WIDE):
            raise OnnxdfqError(f"--act-bits {bits} is not supported", "choose 2 to 8, 16 or none")
        if bits == WIDE and WIDE not in target.activation_bits and not target.weights_only:
            others = " or ".join(name for name, each in TARGETS.items() if WIDE in each.activation_bits)
            raise OnnxdfqError(f"{target.name} has no 16-bit activations", f"choose 2 to 8, none, or target {others}")


def bits_in_name(bits: int | tuple[int, int], size_budget: float | None = None, avg_bits: float | None = None) -> str:
    """What the name of a file says of the bits of its weights: 4, 2-6, or how many they may be on average, 4.8."""
    if size_budget is not None:
        avg_bits = min(32 * size_budget, BITS[-1])
    if avg_bits is not None:
        return f"{avg_bits:g}"
    return "-".join(map(str, bits)) if isinstance(bits, tuple) else str(bits)


def _one_of(option: str, value: str, known: object) -> None:
    choices = list(known)  # type: ignore[call-overload]
    if value not in choices:
        raise OnnxdfqError(f"{option} {value} is not known", f"choose from {', '.join(choices)}")
