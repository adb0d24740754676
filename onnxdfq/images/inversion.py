"""Images made from the model itself, by gradients on the pixels.

An image is 255 * sigmoid(z), so whatever the gradient does it stays an 8-bit image; z starts at a procedural image.
Each step shifts and flips the batch by chance and lowers

    B * mean over BatchNormalizations of  |mean - mu|^2 / sigma^2 + (std / sigma - 1)^2     statistics (ZeroQ)
  + C * mean relu(-log p(label) - log(1 / 0.9))                  confidence, content with 90 %: what goes beyond
                                                                 are patterns with activations no photograph has
  + T * mean absolute difference of neighbouring pixels          photographs are smooth

Models that keep no BatchNormalization do without the first term, models that are no classifiers without the second.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import torch
from torch import Tensor

from onnxdfq.engine.lower import lower, tap
from onnxdfq.engine.precision import PLAIN, fastest, lower_precision
from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.domain import InputDomain
from onnxdfq.images.guides import guides
from onnxdfq.images.model_input import ModelInput

STATISTICS, CONFIDENCE, SMOOTHNESS = 1.0, 1.0, 2.0
CONTENT = float(-np.log(0.9))
RATE = 0.05
BATCH_PIXELS = 16 * 224 * 224  # in one step, where the model leaves the batch free


def invert(
    model: onnx.ModelProto,
    into: ModelInput,
    domain: InputDomain,
    starts: np.ndarray,
    *,
    steps: int,
    seed: int,
    device: str,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Optimized copies of ``starts``: pixels [N, C, H, W], integers 0..255 as float32.

    model: with its BatchNormalization, at an opset the engine runs. on_step: told (steps done, steps in all).
    """
    size = into.batch or int(np.clip(BATCH_PIXELS // (into.height * into.width), 4, 64))
    what = guides(model)
    network = lower(model, trainable=False, input_shapes={into.name: into.shape(size)}).to(device)
    computed = {node.meta.get("onnx_tensor") for node in network.graph.nodes}
    statistics = {
        name: (torch.tensor(mean, device=device), torch.tensor(std, device=device))
        for name, (mean, std) in what.statistics.items()
        if name in computed and name != into.name
    }
    mode = PLAIN
    if lower_precision(torch.device(device)):
        sample = torch.tensor(np.resize(starts, (size, *starts.shape[1:])) / 255, dtype=torch.float32, device=device)
        # CUDA adds in no fixed order anyway; on the CPU equal seeds shall give equal bytes, so no choice may hang on
        # noise: only bfloat16 in hardware wins by so much.
        mode = fastest(network, _to_model(sample, into, domain), margin=1.1 if device == "cuda" else 2.0)
        mode.prepare(network)
    tapped = tap(network, statistics)
    generator = torch.Generator().manual_seed(seed)
    done, total = 0, -(-len(starts) // size) * steps
    made = []
    for first in range(0, len(starts), size):
        pixels = np.resize(starts[first : first + size], (size, *starts.shape[1:]))
        labels = torch.randint(what.classes, (size,), generator=generator).to(device) if what.classes else None
        share = torch.tensor(np.clip(pixels / 255, 0.02, 0.98), device=device)  # copied: aligned, see engine/lower.py
        z = torch.logit(share).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=RATE)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            image = torch.sigmoid(z)
            with mode.context(device):
                outputs, inner = tapped(mode.arrange(_to_model(_jittered(image, generator), into, domain)))
            loss = SMOOTHNESS * _roughness(image)
            if statistics:
                loss = loss + STATISTICS * _mismatch(inner, statistics)
            if labels is not None:
                loss = loss + CONFIDENCE * _doubt(outputs[0], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            on_step(done, total)
        made.append((255 * torch.sigmoid(z.detach())).round().cpu().numpy())
    return np.concatenate(made)[: len(starts)]


def torch_device(wanted: str) -> str:
    """The device for gradients: CUDA where torch has it, unless the user wants the CPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise OnnxdfqError("CUDA was asked for, but torch does not find it", "install a CUDA build, or --device cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _to_model(image: Tensor, into: ModelInput, domain: InputDomain) -> Tensor:
    """Pixels 0..1 as the model wants them."""
    mean, std = (image.new_tensor(each).reshape(1, -1, 1, 1) for each in (domain.mean, domain.std))
    values = (255 * image - mean) / std
    return values.permute(0, 2, 3, 1) if into.layout == "NHWC" else values


def _jittered(image: Tensor, generator: torch.Generator) -> Tensor:
    reach = max(1, min(image.shape[2:]) // 28)
    dy, dx = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    moved = torch.roll(image, (dy, dx), (2, 3))
    return moved.flip(3) if torch.rand((), generator=generator) < 0.5 else moved


def _roughness(image: Tensor) -> Tensor:
    return image.diff(dim=2).abs().mean() + image.diff(dim=3).abs().mean()


def _mismatch(inner: dict[str, Tensor], statistics: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    terms = []
    for name, (mean, std) in statistics.items():
        values = inner[name].float().transpose(0, 1).flatten(1)
        spread = (values.var(1, correction=0) + 1e-8 * std**2).sqrt()
        terms.append((((values.mean(1) - mean) / std) ** 2).mean() + ((spread / std - 1) ** 2).mean())
    return torch.stack(terms).mean()


def _doubt(scores: Tensor, labels: Tensor) -> Tensor:
    scores = scores.float().flatten(1)
    probabilities = bool((scores.detach() >= 0).all()) and bool(((scores.detach().sum(1) - 1).abs() < 1e-3).all())
    log = torch.log(scores.clamp_min(1e-12)) if probabilities else torch.log_softmax(scores, 1)
    return torch.relu(-log.gather(1, labels[:, None]) - CONTENT).mean()
