"""What makes images for a model, behind one interface.

    source = Inversion(subject, steps=40)
    batch = source.make(seed=0, shard=3)       # source.size images, always the same ones

Images are made in shards. A shard hangs on the seed and its number, not on what was made before or by which process:
that is what lets a run be resumed, and shared between processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx

from onnxdfq.images.aims import Aims
from onnxdfq.images.domain import InputDomain
from onnxdfq.images.guides import Guides
from onnxdfq.images.model_input import ModelInput

BATCH_PIXELS = 16 * 224 * 224  # that go through the model together, where it leaves the batch free

FEWEST = 2  # images, however large they are

OnStep = Callable[[int, int, float], None]  # steps done, steps in all, loss


@dataclass(frozen=True)
class Batch:
    """pixels: [N, C, H, W] float32, whole numbers 0..255, channels as the model orders them. labels: what the images
    were made to show, classes [N] int64 or shares of classes [N, K] float32; None where nothing is known."""

    pixels: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Subject:
    """The model that images are made for. model: canonical, with BatchNormalization still in it. device: where torch
    works, "cpu" or "cuda". given: pixels [M, C, H, W] that the user has, to start from. aims: of inverted images."""

    model: onnx.ModelProto
    into: ModelInput
    domain: InputDomain
    guides: Guides
    device: str = "cpu"
    given: np.ndarray | None = None
    aims: Aims = Aims()  # noqa: RUF009  (immutable)


class Source(Protocol):
    """size: images in a shard. steps: that a shard takes, 0 where there are none to count. about: how the images are
    made and what leads them, for the report."""

    @property
    def size(self) -> int: ...

    @property
    def steps(self) -> int: ...

    @property
    def about(self) -> str: ...

    def make(self, seed: int, shard: int, on_step: OnStep = lambda done, total, loss: None) -> Batch:
        """Shard number ``shard`` of those that ``seed`` gives."""
        ...


def batch_size(into: ModelInput) -> int:
    """How many images are worked on together: whole batches of the model, for statistics of a few images say little."""
    fitting = int(np.clip(BATCH_PIXELS // (into.height * into.width), FEWEST, 64))
    return fitting if into.batch is None else into.batch * max(1, fitting // into.batch)


def shard_seed(seed: int, shard: int) -> int:
    """A seed of its own for each shard."""
    return int(np.random.SeedSequence([seed, shard]).generate_state(1)[0])
