"""Qimera (Choi et al., "Qimera: Data-free Quantization with Synthetic Boundary Supporting Samples", NeurIPS 2021).

    plain batch         code = norm(E[y] + e)                            e ~ N(0, 1)
    superposed batch    code = sum_k w_k norm(E[y_k] + e_k)              w = softmax(N(0, 1)), K classes by chance
    L_G, L_Q            those of GDFQ, with the weights w as soft label

A superposed image lies between the regions of its classes, where a quantized model errs first. E begins as the rows by
which the model itself tells the classes apart. The published setting has a K for each network; here it goes by classes.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxdfq.images.generators.classifier_rows import classifier_rows
from onnxdfq.images.generators.gdfq import MANY_CLASSES, confidence_loss
from onnxdfq.images.generators.network import Generator, as_pixels, first_grid
from onnxdfq.images.generators.training import Drawing, TrainedSource, width_for
from onnxdfq.images.source import Subject

SUPERPOSED_BATCHES = 0.4  # their share
TOGETHER = ((10, 2), (100, 10), (1000, 100))  # up to so many classes -> so many of them in one image
LATENT = 64  # where the model has no rows to begin with
MAPPED = 100  # numbers in a code after the mapping ...
LARGEST = 2**24  # ... which is used where the generator's first layer would have more weights than this


class SuperposedDrawing(Drawing):
    """Images of one class, or between several. mapping: a layer after the norm (disentanglement mapping). published:
    images without bounds. width: channels of the generator."""

    def __init__(
        self, subject: Subject, *, mapping: bool = False, published: bool = False, width: int | None = None
    ) -> None:
        super().__init__()
        self._published = published
        into, self._classes = subject.into, subject.guides.classes
        rows = classifier_rows(subject.model, self._classes)
        # The noise has deviation one, and classes shall be heard through it from the first step on.
        start = torch.randn(self._classes, LATENT) if rows is None else torch.tensor(rows / (rows.std() + 1e-12))
        self.embedding = nn.Parameter(start)
        size, width, latent = (into.height, into.width), width or width_for(into), start.shape[1]
        mapping = mapping or latent * width * prod(first_grid(size)) > LARGEST
        self.mapping = nn.Linear(latent, MAPPED) if mapping else nn.Identity()
        self.generator = Generator(
            MAPPED if mapping else latent, into.channels, size,
            classes=self._classes if self._classes > MANY_CLASSES else 0, width=width,
            bounded=not published,
        )  # fmt: skip

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """See Drawing. A batch is superposed as a whole or not at all, for codes of the two kinds differ in size."""
        device = self.embedding.device
        superpose = float(torch.rand((), generator=random)) < SUPERPOSED_BATCHES
        together = classes_together(self._classes) if superpose else 1
        labels = torch.randint(self._classes, (count, together), generator=random).to(device)
        weights = torch.softmax(torch.randn(count, together, generator=random), 1).to(device)
        noise = torch.randn(count, together, self.embedding.shape[1], generator=random).to(device)
        rows = functional.embedding(labels, self.embedding)  # gradients of E[labels] have no fixed order in threads
        code = superposed(self.mapping(standardized(rows + noise)), weights)
        shares = soft_labels(labels, weights, self._classes)
        drawn = self.generator(code, shares)
        return (as_pixels(drawn) if self._published else drawn), shares


class Qimera(TrainedSource):
    """See the module."""

    method = "Qimera"

    def drawing(self) -> Drawing:
        """See TrainedSource."""
        return SuperposedDrawing(self.subject)

    def loss(self, image: Tensor, log: Tensor, shares: Tensor, prior: Tensor) -> Tensor:
        """See TrainedSource."""
        return confidence_loss(log, shares) + prior


def classes_together(classes: int) -> int:
    """K, how many classes a superposed image is made of."""
    return min(classes, next((together for most, together in TOGETHER if classes <= most), TOGETHER[-1][1]))


def standardized(embeddings: Tensor) -> Tensor:
    """[N, K, D] with mean 0 and deviation 1: of each vector where K is 1, else of each place k over all images."""
    if embeddings.shape[1] == 1:
        return functional.layer_norm(embeddings, embeddings.shape[2:])
    return functional.batch_norm(embeddings, None, None, training=True)


def superposed(embeddings: Tensor, weights: Tensor) -> Tensor:
    """[N, D]: embeddings [N, K, D] added up by weights [N, K]."""
    return (weights[:, :, None] * embeddings).sum(1)


def soft_labels(labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    """[N, classes]: the weights [N, K] at their labels [N, K]; what falls on the same class is added up."""
    return weights.new_zeros(len(labels), classes).scatter_add(1, labels, weights)
