"""What images are asked to be, as functions of what the model makes of them. All are means, and 0 is perfect."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def statistics_mismatch(inner: Mapping[str, Tensor], statistics: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over normalizations of |mean - mu|^2 / sigma^2 + (std / sigma - 1)^2, averaged over channels (ZeroQ, Cai et
    al., CVPR 2020, section 3.1, in units of sigma so that all layers count alike)."""
    terms = []
    for name, (mean, std) in statistics.items():
        values = inner[name].float().transpose(0, 1).flatten(1)
        spread = (values.var(1, correction=0) + 1e-8 * std**2).sqrt()
        terms.append((((values.mean(1) - mean) / std) ** 2).mean() + ((spread / std - 1) ** 2).mean())
    return torch.stack(terms).mean()


def log_probabilities(scores: Tensor) -> Tensor:
    """[N, K] from an output that holds logits or probabilities."""
    scores = scores.float().flatten(1)
    kept = scores.detach()
    probabilities = bool((kept >= 0).all()) and bool(((kept.sum(1) - 1).abs() < 1e-3).all())
    return torch.log(scores.clamp_min(1e-12)) if probabilities else torch.log_softmax(scores, 1)


def cross_entropy(log: Tensor, labels: Tensor) -> Tensor:
    """[N]: of log probabilities [N, K] with classes [N] or shares of classes [N, K]."""
    return -log.gather(1, labels[:, None])[:, 0] if labels.ndim == 1 else -(labels * log).sum(1)


def roughness(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, where an image has such: photographs are smooth."""
    return sum((image.diff(dim=axis).abs().mean() for axis in (2, 3) if image.shape[axis] > 1), image.new_zeros(()))
