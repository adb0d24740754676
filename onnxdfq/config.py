"""What a run can be told, typed and checked in one place: the command line and Python share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from onnxdfq.calibrate.observers import Method
from onnxdfq.engine.ort import Device
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.domain import PRESETS
from passes.plan import QuantPlan
from passes.targets import TARGETS

BITS = range(2, 9)


@dataclass(frozen=True)
class Recipe:
    """How much a run does. inversion_steps: gradient steps per image, 0 for none (and then torch is not imported)."""

    name: str
    about: str
    inversion_steps: int


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("fast", "procedural images, no gradients, no torch: seconds", 0),
        Recipe("balanced", "images inverted from the model itself: a minute or two", 40),
    )
}


@dataclass(frozen=True)
class Options:
    """bits: of the weights. targets: one file is made for each. recipe: see RECIPES. device: where gradients and
    verification run. seed: the same seed, model and options give the same files, byte for byte.

    domain: a preset by name; or mean and std with scale, as in x = (pixel * scale - mean) / std; or nothing, and the
    domain is inferred from the model. order: of colours at the model's input, with mean and std. input_shape: of the
    input, needed only where H and W are free and no usual size runs. observer: how ranges are cut, None for the
    default of the bit width. evaluate: labelled images, a folder with one folder per class, or an npz.

    all_layers: the first and the last layers get ``bits`` too, not 8. overrides: entries of a configuration file. plan:
    a decision made before, for its target. compat: weights of few bits stay in 8-bit containers. float_type: of what
    stays unquantized, where the target allows it.
    """

    bits: int = 8
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

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise OnnxdfqError(f"--bits {self.bits} is not supported", f"choose from {BITS[0]} to {BITS[-1]}")
        _one_of("--recipe", self.recipe, RECIPES)
        _one_of("--device", self.device, get_args(Device))
        if not self.targets:
            raise OnnxdfqError("no target given", f"choose from {', '.join(TARGETS)}")
        for target in self.targets:
            _one_of("--target", target, TARGETS)
            if self.float_type not in TARGETS[target].float_types:
                known = ", ".join(TARGETS[target].float_types)
                raise OnnxdfqError(f"{target} takes no --float-type {self.float_type}", f"choose from {known}")
        if self.plan is not None and self.plan.target not in self.targets:
            raise OnnxdfqError(f"the plan is for {self.plan.target}", f"give --target {self.plan.target}")
        if self.plan is not None and self.overrides:
            raise OnnxdfqError(
                "--plan and --config exclude each other", "edit the plan, or make it again with --config"
            )
        if self.observer is not None:
            _one_of("--observer", self.observer, get_args(Method))
        if self.domain is not None:
            _one_of("--domain", self.domain, PRESETS)
            if self.mean or self.std:
                raise OnnxdfqError("--domain and --mean/--std exclude each other", "give one of them")
        if (self.mean is None) != (self.std is None):
            raise OnnxdfqError("--mean and --std belong together", "give both")


def _one_of(option: str, value: str, known: object) -> None:
    choices = list(known)  # type: ignore[call-overload]
    if value not in choices:
        raise OnnxdfqError(f"{option} {value} is not known", f"choose from {', '.join(choices)}")
