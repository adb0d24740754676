"""The model as those see it who make images by gradients: pixels in, scores and inner statistics out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from onnxdfq.engine.lower import lower, tap
from onnxdfq.engine.precision import PLAIN, Mode, fastest, lower_precision
from onnxdfq.images.domain import InputDomain
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.source import Subject, batch_size
from onnxdfq.images.swing import swing as let_swing


def to_model(image: Tensor, into: ModelInput, domain: InputDomain) -> Tensor:
    """Pixels 0..1 [N, C, H, W] as the model wants them."""
    mean, std = (image.new_tensor(each).reshape(1, -1, 1, 1) for each in (domain.mean, domain.std))
    values = (255 * image - mean) / std
    return values.permute(0, 2, 3, 1) if into.layout == "NHWC" else values


class Teacher:
    """The model with frozen weights, in the precision that runs fastest here.

    size: images per call. statistics: tensor -> (mean, standard deviation), each [C], of those that training left in
    the model. mode: precision and memory order.
    """

    def __init__(
        self,
        subject: Subject,
        statistics: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
        *,
        swing: bool = False,
    ) -> None:
        """statistics: by tensor, instead of those in BatchNormalization. swing: see images/swing.py."""
        self.into, self.domain = subject.into, subject.domain
        self.size = batch_size(subject.into)
        self.device = torch.device(subject.device)
        shapes = {subject.into.name: subject.into.shape(self.size)}
        network = lower(subject.model, trainable=False, input_shapes=shapes).to(self.device)
        computed = {node.meta.get("onnx_tensor") for node in network.graph.nodes} - {subject.into.name}
        known = subject.guides.statistics if statistics is None else statistics
        self.statistics = {
            name: (torch.tensor(mean, device=self.device), torch.tensor(std, device=self.device))
            for name, (mean, std) in known.items()
            if name in computed
        }
        self.mode: Mode = PLAIN
        if lower_precision(self.device):
            channels, height, width = subject.into.channels, subject.into.height, subject.into.width
            sample = torch.rand(self.size, channels, height, width, generator=torch.Generator().manual_seed(0))
            # CUDA adds in no fixed order anyway; on the CPU equal seeds shall give equal bytes, so no choice may hang
            # on noise: only bfloat16 in hardware wins by so much.
            margin = 1.1 if self.device.type == "cuda" else 2.0
            self.mode = fastest(network, to_model(sample.to(self.device), self.into, self.domain), margin=margin)
            self.mode.prepare(network)
        self._tapped = tap(network, self.statistics)
        self._generator = torch.Generator()
        if swing:
            let_swing(self._tapped, self._generator)

    def reseed(self, seed: int) -> torch.Generator:
        """The generator that the swinging hangs on, started anew."""
        return self._generator.manual_seed(seed)

    def __call__(self, image: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Outputs of the model for pixels 0..1 [size, C, H, W], and the tensors that ``statistics`` names."""
        with self.mode.context(self.device):
            outputs, inner = self._tapped(self.mode.arrange(to_model(image, self.into, self.domain)))
        return outputs, inner
