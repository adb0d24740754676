"""The model as those see it who make images by gradients: pixels in, scores and inner statistics out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from onnxdfq.engine.lower import lower, tap
from onnxdfq.engine.precision import Mode, lower_precision
from onnxdfq.images.domain import InputDomain
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.other_inputs import resized
from onnxdfq.images.source import Subject, batch_size
from onnxdfq.images.swing import swing as let_swing


def to_model(image: Tensor, into: ModelInput, domain: InputDomain) -> Tensor:
    """Pixels 0..1 [N, C, H, W] as the model wants them."""
    mean, std = (image.new_tensor(each).reshape(1, -1, 1, 1) for each in (domain.mean, domain.std))
    values = (255 * image - mean) / std
    return values.permute(0, 2, 3, 1) if into.layout == "NHWC" else values


class Inputs:
    """Every input of a model, in its order, for pixels 0..1 [size, C, H, W].

    What else the model reads stands beside the images as in ``ModelInput.feeds``. Gradients reach an image through all
    inputs that show it.
    """

    def __init__(self, subject: Subject, size: int, device: torch.device) -> None:
        self.into, self.domain = subject.into, subject.domain
        known = subject.into.shapes(size)
        self.names = [entry.name for entry in subject.model.graph.input if entry.name in known]
        self.constants = {}
        for other in subject.into.others:
            if other.role != "image":
                self.constants[other.name] = torch.from_numpy(other.values(range(size))).to(device)

    def __call__(self, image: Tensor) -> list[Tensor]:
        values = to_model(image, self.into, self.domain)
        found = {self.into.name: values, **self.constants}
        further = {name: steps for steps, name in enumerate(self.into.images)}
        for other in self.into.others:
            if other.role == "image":
                turned = values.roll(-further[other.name], 0)
                if turned.shape[1:] != other.shape[-3:]:
                    for axis, places in enumerate(resized(turned.shape[1:], other.shape[-3:]), 1):
                        turned = turned.index_select(axis, torch.from_numpy(places).to(image.device))
                found[other.name] = turned if other.per_image else turned[:1]
        return [found[name] for name in self.names]


class Teacher:
    """The model with frozen weights, in bfloat16 where the hardware computes in it.

    size: images per call. inputs: what the model reads for so many. statistics: tensor -> (mean, standard deviation),
    each [C], of those that training left in the model. mode: precision and memory order. network: as a module.
    """

    def __init__(
        self,
        subject: Subject,
        statistics: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
        *,
        swing: bool = False,
        size: int | None = None,
    ) -> None:
        """statistics: by tensor, instead of those in BatchNormalization. swing: see images/swing.py. size: of a batch,
        where the model leaves it free."""
        self.size = subject.into.batch or size or batch_size(subject.into)
        self.device = torch.device(subject.device)
        self.inputs = Inputs(subject, self.size, self.device)
        shapes = subject.into.shapes(self.size)
        network = lower(subject.model, trainable=False, input_shapes=shapes).to(self.device)
        computed = {node.meta.get("onnx_tensor") for node in network.graph.nodes} - shapes.keys()
        known = subject.guides.statistics if statistics is None else statistics
        self.statistics = {
            name: (torch.tensor(mean, device=self.device), torch.tensor(std, device=self.device))
            for name, (mean, std) in known.items()
            if name in computed
        }
        # By what the hardware is, not by the clock: equal seeds shall give equal bytes.
        self.mode = Mode(lower_precision(self.device), channels_last=self.device.type == "cuda")
        self.mode.prepare(network)
        self.network = network
        self._tapped = tap(network, self.statistics)
        self._generator = torch.Generator()
        if swing:
            let_swing(self._tapped, self._generator)

    def reseed(self, seed: int) -> torch.Generator:
        """The generator that the swinging hangs on, started anew."""
        return self._generator.manual_seed(seed)

    def __call__(self, image: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Outputs of the model for pixels 0..1 [N, C, H, W], N whole batches of it, and the tensors that ``statistics``
        names."""
        found = [self.called(self._tapped, part) for part in image.split(self.size)]
        if len(found) == 1:
            return found[0]
        outputs = tuple(torch.cat(each) for each in zip(*(each for each, _ in found), strict=True))
        return outputs, {name: torch.cat([inner[name] for _, inner in found]) for name in found[0][1]}

    def outputs(self, image: Tensor, network: fx.GraphModule | None = None) -> list[Tensor]:
        """Outputs for pixels 0..1 [N, C, H, W], N whole batches, of the model or of another with the same inputs."""
        found = [self.called(network or self.network, part) for part in image.split(self.size)]
        return [torch.cat(each) for each in zip(*found, strict=True)]

    def called(self, network: fx.GraphModule, batch: Tensor) -> Any:
        """What a graph with the inputs of the model returns for one batch of pixels 0..1."""
        with self.mode.context(self.device):
            return network(*map(self.mode.arrange, self.inputs(batch.contiguous())))
