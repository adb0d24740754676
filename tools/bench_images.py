"""Images per second of inversion through the torch engine, beside a plain loop over a torch.nn.Module.

    python tools/bench_images.py [--network ResNet-20] [--batch 64] [--steps 20] [--rounds 5] [--threads 1]

The network is exported to ONNX for the engine. Both sides begin with the same images and draw the same random numbers,
with the same losses, changes of the images and optimizer; in float32 their images are compared, too. In each round both
make a shard, in turns, and the one that was first comes last in the next round. Printed are the medians of the seconds
that a shard takes and their ratio, in float32 and under bfloat16 autocast, on the CPU and on CUDA where torch has it.
Memory order is the default on both sides.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import numpy as np
import torch
from bench_engine import SIDES, exported, finish, mobilenet_v2, resnet20, trained_like
from torch import Tensor, nn

from onnxdfq.engine.precision import Mode
from onnxdfq.images.augment import augmented
from onnxdfq.images.domain import preset
from onnxdfq.images.drawn import starts
from onnxdfq.images.guides import guides
from onnxdfq.images.inversion import RATE, SMOOTHNESS, STATISTICS, SURE, Inversion
from onnxdfq.images.losses import roughness, statistics_mismatch
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.plateau import PATIENCE, WINDOW
from onnxdfq.images.source import Subject, shard_seed
from onnxdfq.images.spectrum import Spectrum
from onnxdfq.model_file import with_shapes

NETWORKS: dict[str, Callable[[], nn.Sequential]] = {"ResNet-20": resnet20, "MobileNetV2": mobilenet_v2}
MOST_STEPS = WINDOW * (1 + PATIENCE) - 1  # with more the engine might stop earlier, as the plain loop never does
DIFFERENCE = 0.5  # of pixels 0..255 on average that rounding may make


class PlainLoop:
    """Inversion as one would write it for a module: hooks on BatchNormalization, autograd, Adam."""

    def __init__(self, network: nn.Module, subject: Subject, batch: int, steps: int, dtype: torch.dtype | None) -> None:
        self.network, self.subject, self.batch, self.steps, self.dtype = network, subject, batch, steps, dtype
        self.inner: dict[str, Tensor] = {}
        self.statistics: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in network.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                self.statistics[name] = (layer.running_mean, (layer.running_var + layer.eps).sqrt())
                layer.register_forward_pre_hook(lambda layer, inputs, name=name: self.inner.update({name: inputs[0]}))

    def make(self, seed: int, shard: int) -> np.ndarray:
        """Pixels [N, C, H, W], whole numbers 0..255."""
        device, generator = self.subject.device, torch.Generator().manual_seed(shard_seed(seed, shard))
        labels = torch.randint(self.subject.guides.classes, (self.batch,), generator=generator).to(device)
        share = np.clip(starts(self.subject, self.batch, seed, shard) / 255, 0.02, 0.98).astype(np.float32)
        spectrum = Spectrum(*share.shape[1:], torch.device(device))
        c = spectrum.coefficients(torch.logit(torch.tensor(share, device=device))).requires_grad_()
        numbers = self.subject.domain.mean, self.subject.domain.std
        mean, std = (torch.tensor(each, device=device).reshape(1, -1, 1, 1) for each in numbers)
        optimizer = torch.optim.Adam([c], lr=RATE)
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + np.cos(np.pi * step / self.steps))
            image = torch.sigmoid(spectrum.image(c))
            with torch.autocast(device, self.dtype) if self.dtype else nullcontext():
                scores = self.network((255 * augmented(image, generator, crops=False) - mean) / std)
            doubt = nn.functional.cross_entropy(scores.float(), labels, reduction="none")
            loss = STATISTICS * statistics_mismatch(self.inner, self.statistics) + SMOOTHNESS * roughness(image)
            loss = loss + torch.relu(doubt + np.log(SURE)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss.detach())  # told to whoever watches
        return (255 * torch.sigmoid(spectrum.image(c.detach()))).round().cpu().numpy()


def compare(name: str, device: str, dtype: torch.dtype | None, batch: int, steps: int, rounds: int) -> None:
    """Print one line."""
    torch.manual_seed(0)
    network, side = trained_like(NETWORKS[name]()).requires_grad_(False), SIDES[name]
    model = with_shapes(exported(network, torch.randn(batch, 3, side, side)))
    into = ModelInput("x", 3, side, side, "NCHW", batch, np.dtype(np.float32))
    subject = Subject(model, into, preset("imagenet", 3, ""), guides(model), device)
    plain = PlainLoop(network.to(device), subject, batch, steps, dtype)
    assert len(subject.guides.statistics) == len(plain.statistics)
    engine = Inversion(subject, steps=steps)
    engine._teacher.mode = Mode(dtype)
    makers = [plain.make, lambda seed, shard: engine.make(seed, shard).pixels]
    seconds: list[list[float]] = [[], []]
    for turn in range(1 + rounds):
        made = {}
        for who in (0, 1) if turn % 2 else (1, 0):
            started = time.perf_counter()
            made[who] = makers[who](0, turn)
            finish(torch.device(device))
            if turn:  # the first one is to warm up
                seconds[who].append(time.perf_counter() - started)
        difference = float(np.abs(made[0] - made[1]).mean())
        assert dtype is not None or difference < DIFFERENCE, f"images differ by {difference:.2f} on average"
    own, other = median(seconds[1]), median(seconds[0])
    precision = str(dtype or torch.float32).removeprefix("torch.")
    both = [f"{each:.2f} s ({batch / each:.3g} images/s)" for each in (own, other)]
    print(f"{device} {name}, {precision}, {batch} images in {steps} steps, {rounds} rounds:", end=" ")
    print(f"engine {both[0]}, module {both[1]}, ratio {own / other:.3f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="ResNet-20")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help=f"up to {MOST_STEPS} (default 20)")
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default 1)")
    parsed = parser.parse_args()
    if not 0 < parsed.steps <= MOST_STEPS:
        parser.error(f"--steps {parsed.steps}: give 1 to {MOST_STEPS}")
    warnings.filterwarnings("ignore")  # the exporter's, that there is a newer one
    torch.set_num_threads(parsed.threads)
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for dtype in (None, torch.bfloat16):
            compare(parsed.network, device, dtype, parsed.batch, parsed.steps, parsed.rounds)


if __name__ == "__main__":
    main()
