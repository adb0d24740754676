"""Images made from the model itself, by gradients on the pixels.

An image is 255 * sigmoid(z), so whatever the gradient does it stays an 8-bit image; z, by its Fourier coefficients (see
images/spectrum.py), starts at a procedural image, or at one that the user has. Each step shifts and flips the batch by
chance and lowers

    S * mean over BatchNormalizations of  |mean - mu|^2 / sigma^2 + (std / sigma - 1)^2     statistics (ZeroQ)
  + C * mean relu(-sum_k y_k log p_k + sum_k y_k log y_k - log(1 / 0.9))                    classes y
  + T * mean absolute difference of neighbouring pixels                                     photographs are smooth

An image is content with 90 % of its class: what goes beyond are patterns with activations that no photograph has. Hard
images are content with 50 % already (cf. SynQ, which leaves out the cross-entropy of what is sure enough); boundary
images belong to two classes at once, in shares y drawn as in Qimera; difficult ones to classes that are alike, in
shares y of all degrees (images/difficulty.py).

Models that keep no BatchNormalization are led by recovered statistics of their early layers (images/recovered.py), with
less weight, for these are not quite those of training. Models that are no classifiers do without the second term.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from onnxdfq.images.augment import augmented
from onnxdfq.images.difficulty import Neighbours, class_weights, levels, neighbours
from onnxdfq.images.drawn import starts
from onnxdfq.images.losses import cross_entropy, log_probabilities, roughness, statistics_mismatch
from onnxdfq.images.low_pass import low_pass
from onnxdfq.images.plateau import Plateau
from onnxdfq.images.recovered import early
from onnxdfq.images.source import Batch, OnStep, Subject, batch_size, shard_seed
from onnxdfq.images.spectrum import Spectrum
from onnxdfq.images.teacher import Teacher

# Statistics are the aim. Classes only choose between images that have them: at equal weights the cross-entropy, of 5
# nats and more in the beginning, would tear images away from statistics that procedural ones nearly have.
STATISTICS, RECOVERED, CONFIDENCE, SMOOTHNESS = 30.0, 10.0, 1.0, 2.0
RATE = 0.05
SURE, HARD = 0.9, 0.5  # probability of its class that an image is content with


class Inversion:
    """See the module. steps: of Adam, per shard, fewer where the loss is flat before."""

    def __init__(self, subject: Subject, *, steps: int = 40) -> None:
        self._subject, self._aims, self._classes = subject, subject.aims, subject.guides.classes
        self.size, self.steps = batch_size(subject.into), steps

    @property
    def about(self) -> str:
        """See Source."""
        kept, recovered = self._subject.guides.statistics, self._recovered
        led = [f"{len(kept)} BatchNormalization statistics"] if kept else []
        led += [f"statistics recovered for {len(recovered)} layers"] if recovered else []
        led += [f"{self._classes} classes"] if self._classes else []
        if self._aims.difficult and self._classes:
            led += ["their likeness" if self._neighbours else "no likeness of theirs: no layer that scores was found"]
        return f"inverted on {self._subject.device} in {self.steps} steps, led by {' and '.join(led)}"

    @cached_property
    def _recovered(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {} if self._subject.guides.statistics else early(self._subject)

    @cached_property
    def _neighbours(self) -> Neighbours | None:
        weights = class_weights(self._subject.model, self._classes) if self._aims.difficult and self._classes else None
        return None if weights is None else neighbours(weights, dot=self._aims.dot)

    @cached_property
    def _teacher(self) -> Teacher:  # when it is needed first: images from a store need none
        return Teacher(self._subject, self._subject.guides.statistics or self._recovered, swing=self._aims.swing)

    @cached_property
    def _spectrum(self) -> Spectrum:
        into = self._subject.into
        return Spectrum(into.channels, into.height, into.width, self._teacher.device)

    def make(self, seed: int, shard: int, on_step: OnStep = lambda done, total, loss: None) -> Batch:
        """See Source."""
        device = self._teacher.device
        generator = self._teacher.reseed(shard_seed(seed, shard))
        share = np.clip(starts(self._subject, self.size, seed, shard) / 255, 0.02, 0.98).astype(np.float32)
        begin = torch.tensor(share, device=device)  # copied: aligned, see engine/lowering.py
        labels, content = self._wishes(begin, generator)
        z = torch.logit(begin)
        coefficients = self._spectrum.coefficients(z).requires_grad_()
        optimizer = torch.optim.Adam([coefficients], lr=RATE)
        plateau = Plateau()
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + np.cos(np.pi * step / self.steps))
            loss = self._loss(self._image(coefficients), labels, content, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_step(step + 1, self.steps, float(loss.detach()))
            if plateau.flat(float(loss.detach())):
                break
        pixels = (255 * self._image(coefficients.detach())).round().cpu().numpy()
        return Batch(pixels, labels.cpu().numpy() if labels is not None else None)

    def _wishes(self, begin: Tensor, generator: torch.Generator) -> tuple[Tensor | None, Tensor]:
        """Classes [N], or their shares [N, K] where some images are of two, and with which probability each image is
        content [N]. Images that the user has are to stay what the model sees in them."""
        device = self._teacher.device
        places = torch.linspace(0, 1, self.size + 1)[:-1]  # the kinds of starts take turns, so any part has them all
        content = torch.where(places < self._aims.hard, HARD, SURE).to(device)
        if not self._classes:
            return None, content
        first = torch.randint(self._classes, (self.size,), generator=generator)
        if self._subject.given is not None:
            with torch.no_grad():
                first = log_probabilities(self._teacher(begin)[0][0]).argmax(1).cpu()
        if self._neighbours is not None:
            wanted = levels(self.size, self._aims.difficult)
            return torch.from_numpy(self._neighbours.labels(first.numpy(), wanted)).to(device), content
        if not self._aims.boundary:
            return first.to(device), content
        second = torch.randint(self._classes, (self.size,), generator=generator)
        mixed = torch.softmax(torch.randn(self.size, 2, generator=generator), 1)
        share = torch.where(places >= 1 - self._aims.boundary, mixed[:, 0], 1.0)
        labels = torch.zeros(self.size, self._classes)
        labels.scatter_add_(1, first[:, None], share[:, None])
        labels.scatter_add_(1, second[:, None], 1 - share[:, None])
        return labels.to(device), content

    def _image(self, coefficients: Tensor) -> Tensor:
        image = torch.sigmoid(self._spectrum.image(coefficients))
        return low_pass(image, self._aims.cutoff) if self._aims.cutoff else image

    def _loss(self, image: Tensor, labels: Tensor | None, content: Tensor, generator: torch.Generator) -> Tensor:
        outputs, inner = self._teacher(augmented(image, generator, crops=self._aims.crops))
        loss = SMOOTHNESS * roughness(image)
        if self._teacher.statistics:
            weight = STATISTICS if self._subject.guides.statistics else RECOVERED
            loss = loss + weight * statistics_mismatch(inner, self._teacher.statistics)
        if labels is not None:
            doubt = cross_entropy(log_probabilities(outputs[0]), labels) + torch.log(content)
            if labels.ndim == 2:
                doubt = doubt + torch.xlogy(labels, labels).sum(1)
            loss = loss + CONFIDENCE * torch.relu(doubt).mean()
        return loss
