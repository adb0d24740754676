"""The report of one run, as data."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxdfq.verify.agreement import Agreement
from onnxdfq.verify.clipping import Clipping
from onnxdfq.verify.kernels import KernelReport
from onnxdfq.verify.tensors import TensorNoise
from passes.plan import QuantPlan

INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
PACKAGES = ("onnxdfq", "onnx", "onnxruntime-gpu", "onnxruntime", "onnxsim", "onnx-graphsurgeon", "numpy", "torch")


@dataclass
class TargetReport:
    """What came out for one target. layers: weighted layers in integers, of ``of``. bias_correction: what was decided
    and why. provider: what ONNX Runtime really ran the verification on. weights: their containers and bytes. kernels:
    what runs, where this machine can tell for the target.

    bits: of the weights by layer. rounding, learning, budget: what was done to the weights, what came of it where the
    graph learned, and what a budget of bytes or bits came to, in words. sensitivity: damage by layer and bits, where
    bits were chosen by it, and with details. pairing: pairs as {low, high, through}, and the layers in none with their
    reasons, where layers were paired. With details: noise of what each layer writes, clipping of each activation, and
    milliseconds of the original and of the result, side by side, where this machine can tell for the target.
    """

    file: str
    size: int
    layers: int
    of: int
    plan: QuantPlan
    agreement: Agreement
    provider: str
    bias_correction: str
    weights: str
    kernels: KernelReport | None
    accuracy: float | None = None
    bits: dict[str, int] = field(default_factory=dict)
    rounding: str = ""
    learning: str = ""
    budget: str = ""
    sensitivity: dict[str, dict[int, float]] | None = None
    pairing: dict[str, Any] | None = None
    noise: list[TensorNoise] | None = None
    clipping: list[Clipping] | None = None
    milliseconds: tuple[float, float] | None = None

    @property
    def skips(self) -> dict[str, list[str]]:
        """Nodes left alone, by reason."""
        found: dict[str, list[str]] = {}
        for skip in self.plan.skips:
            found.setdefault(skip.reason, []).append(skip.node)
        return found


@dataclass
class Report:
    """model: path and size of the input. assumed: input domain and image source, in words. rung: what led the images.
    quality: of the images, 0 to 1, None where nothing tells. difficulty: rank correlation of how difficult images were
    meant to be with how unsure the model is of them, where some were meant to be. accuracy: of the float model, in
    percent, when labelled images were given. stages: name -> seconds. ranges: (low, high) by tensor, of all that some
    target may quantize. rolled_back: what layers were put back to, None where that was not asked for. gate: what was
    demanded and does not hold, empty where all holds.
    """

    model: str
    size: int
    options: dict[str, Any]
    input: str = ""
    domain: str = ""
    images: str = ""
    rung: str = ""
    quality: float | None = None
    quality_in_words: str = ""
    difficulty: float | None = None
    batchnorm: str = ""
    equalization: str = ""
    notices: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    accuracy: float | None = None
    targets: dict[str, TargetReport] = field(default_factory=dict)
    rolled_back: dict[str, str] | None = None
    gate: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything as plain lists, numbers and text, with the versions that were at work."""
        data = asdict(self)
        for name, target in self.targets.items():
            data["targets"][name]["plan"] = target.plan.to_json()
            data["targets"][name]["kernels"] = target.kernels.to_json() if target.kernels else None
        data["versions"] = versions()
        return data


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "cpu": cpu()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu() -> str:
    """The processor, and which of its instructions decide how fast integers are, where the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    known = [name for name in INSTRUCTIONS if name in found.get("flags", "").split()]
    return " ".join(filter(None, (found.get("model name", platform.processor()), ", ".join(known))))
