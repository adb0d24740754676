"""Trains the reference model on handwritten digits and writes it as ONNX, BatchNorm and all.

    python tools/train_reference.py [models/digits_mobilenet.onnx]

A small MobileNet: what makes real ones hard to quantize is in it (depthwise convolutions, ReLU6, linear
bottlenecks, residual sums), and it trains in minutes on a CPU. The last epoch is kept, whatever its accuracy:
the held-out images choose nothing.
"""

import sys
import time
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from digits import held_out, normalize, training

SEED = 0
THREADS = 2  # sums are ordered by thread, so another number gives another model
EPOCHS = 60
BATCH = 64
PEAK_RATE = 6e-3
OPSET = 17


class Bottleneck(nn.Module):
    """Inverted residual: widen, filter each channel alone, narrow again; add the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = inputs * widen
        self.residual = stride == 1 and inputs == outputs
        self.widen = convolution(inputs, wide, 1)
        self.depthwise = convolution(wide, wide, 3, stride, groups=wide)
        self.narrow = convolution(wide, outputs, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(self.depthwise(self.widen(x)))
        return x + y if self.residual else y


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([] if linear else [nn.ReLU6()]))


def reference_model() -> nn.Sequential:
    layers: dict[str, nn.Module] = {
        "stem": convolution(1, 16, 3, stride=2),
        "block1": Bottleneck(16, 16, stride=1, widen=2),
        "block2": Bottleneck(16, 24, stride=2, widen=4),
        "block3": Bottleneck(24, 24, stride=1, widen=4),
        "block4": Bottleneck(24, 48, stride=2, widen=4),
        "block5": Bottleneck(48, 48, stride=1, widen=4),
        "head": convolution(48, 128, 1),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "classifier": nn.Linear(128, 10),
    }
    return nn.Sequential(OrderedDict(layers))


def augment(pixels: Tensor) -> Tensor:
    """Another hand, another pen: turned, resized, shifted, fainter or bolder, with a little noise."""
    count = len(pixels)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *size)

    angle, scale, shift = uniform(-0.2, 0.2), uniform(0.85, 1.18), uniform(-0.15, 0.15, 2, 1)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    turn = torch.stack([cos, -sin, sin, cos], 1).reshape(count, 2, 2)
    grid = functional.affine_grid(torch.cat([turn, shift], 2), list(pixels.shape), align_corners=False)
    moved = functional.grid_sample(pixels, grid, align_corners=False) * uniform(0.7, 1.2, 1, 1, 1)
    return (moved + uniform(0, 12, 1, 1, 1) * torch.randn_like(moved)).clamp(0, 255)


def train() -> nn.Sequential:
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    pixels, labels = (torch.from_numpy(part) for part in training())
    pixels = pixels.float()
    model = reference_model()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    steps = EPOCHS * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps)
    for _ in range(EPOCHS):
        # The last, smaller batch is left out: BatchNorm would learn from a handful of images.
        for batch in torch.randperm(len(labels))[: len(labels) // BATCH * BATCH].split(BATCH):
            scores = model((augment(pixels[batch]) - 127.5) / 127.5)
            loss = functional.cross_entropy(scores, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    batch = {"image": {0: "batch"}, "scores": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter needs a further package
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 32, 32),),
            path,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes=batch,
            opset_version=OPSET,
            dynamo=False,
            # The model is in evaluation mode already; asking for that mode here would fuse BatchNorm away.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "models/digits_mobilenet.onnx")
    start = time.perf_counter()
    model = train()
    seconds = time.perf_counter() - start
    export(model, path)

    pixels, labels = held_out()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores = session.run(None, {"image": normalize(pixels)})[0]
    with torch.no_grad():
        expected = model(torch.from_numpy(normalize(pixels))).numpy()
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"{path}: {weights} parameters, {path.stat().st_size / 1024:.0f} KiB, trained in {seconds:.0f} s")
    print(f"held-out top-1: onnxruntime {np.mean(scores.argmax(1) == labels):.2%}", end=", ")
    print(f"torch {np.mean(expected.argmax(1) == labels):.2%}", end=", ")
    print(f"largest difference of scores {np.abs(scores - expected).max():.1e}")


if __name__ == "__main__":
    main()
