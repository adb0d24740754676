"""Images of every difficulty, as labels: from sure of one class to torn between a few that are alike.

    w_i         weights of class i in the layer that gives the scores
    s_ij        how alike two classes are: cosine of w_i and w_j, or <w_i, w_j> as published (DynaDFQ, eq. 5)
    G(i)        the K - 1 classes most alike to i
    y(i, d) = (1 - d') onehot(i) + d' softmax_{j in G(i)} (s_ij / deviation of s)      d' = d * most

"most" is hardly less than the share with which another class would be as likely: d = 0 is an easy image, d = 1 one
whose class just leads. Groups of similar classes make such an image plausible: a cat that might be a dog, and no truck.

(Dynamic data-free quantization, OpenReview SN3iwsAp0n. The labels by groups of similar classes and the levels are from
there; size of groups, temperature and limit of shares are not known of it and are choices made here.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnxdfq.verify.agreement import log_probabilities

LEADING = 0.98  # of the share at which the first class and the second are level
# What may stand between the layer that scores classes and the output
AFTER_SCORES = frozenset({
    "Softmax", "LogSoftmax", "Flatten", "Reshape", "Squeeze", "Identity", "Add", "GlobalAveragePool", "AveragePool",
    "ReduceMean", "Relu", "Dropout", "Cast", "BatchNormalization",
})  # fmt: skip


def class_weights(model: onnx.ModelProto, classes: int) -> np.ndarray | None:
    """[C, D] of the layer that gives the scores of ``model``, None where no such layer is found. Kernels of a
    convolution are summed: what follows is a mean over places."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(model.graph.output[0].name)
    while node is not None and node.op_type in AFTER_SCORES:
        node = next((producers[name] for name in node.input if name in producers), None)
    if node is None or node.op_type not in ("Gemm", "MatMul", "Conv") or node.input[1] not in values:
        return None
    weights = numpy_helper.to_array(values[node.input[1]]).astype(np.float32)
    if node.op_type == "Conv":
        weights = weights.sum(axis=tuple(range(2, weights.ndim)))
    elif not any(each.name == "transB" and each.i for each in node.attribute):
        weights = weights.T
    return weights if weights.ndim == 2 and len(weights) == classes else None


@dataclass(frozen=True)
class Neighbours:
    """others: [C, K - 1] classes most alike to each, the most alike first. likeness: of them, in deviations."""

    others: np.ndarray
    likeness: np.ndarray

    def labels(self, first: np.ndarray, difficulty: np.ndarray) -> np.ndarray:
        """Shares of classes [N, C] for images that shall show class ``first`` [N] with ``difficulty`` 0..1 [N]."""
        others, likeness = self.others[first], self.likeness[first]
        shares = np.exp(likeness - likeness.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        given = difficulty * LEADING / (1 + shares.max(1))
        labels = np.zeros((len(first), len(self.others)), np.float32)
        np.put_along_axis(labels, others, (given[:, None] * shares).astype(np.float32), 1)
        np.put_along_axis(labels, first[:, None], (1 - given[:, None]).astype(np.float32), 1)
        return labels


def neighbours(weights: np.ndarray, *, dot: bool = False) -> Neighbours:
    """By rows of ``weights`` [C, D], C two or more. dot: by their products as published, which favours classes with
    large weights; else by their cosines."""
    classes = len(weights)
    rows = weights if dot else weights / (np.linalg.norm(weights, axis=1, keepdims=True) + 1e-12)
    alike = rows @ rows.T
    apart = ~np.eye(classes, dtype=bool)
    deviation = float(alike[apart].std()) + 1e-12
    np.fill_diagonal(alike, -np.inf)
    count = min(5, 2 + classes // 10, classes) - 1  # 2 others of 10 classes, 4 of 30 and more
    others = np.argsort(-alike, axis=1, kind="stable")[:, :count]
    return Neighbours(others, np.take_along_axis(alike, others, 1) / deviation)


def levels(count: int, share: float) -> np.ndarray:
    """Difficulties of ``count`` images: 0 for the first ones, and from above 0 to 1 in equal steps for the last
    ``share`` of them."""
    hard = round(count * share)
    return np.concatenate([np.zeros(count - hard), np.arange(1, hard + 1) / max(hard, 1)])


def entropy(shares: np.ndarray) -> np.ndarray:
    """[N] in nats, of shares of classes [N, C]."""
    return -(shares * np.log(np.maximum(shares, 1e-12))).sum(1)


def doubt(scores: np.ndarray) -> np.ndarray:
    """[N]: entropy in nats of what a model says, [N, C] scores or probabilities."""
    return entropy(np.exp(log_probabilities(scores.astype(np.float64))))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, equal numbers sharing their ranks; 0 where one of both is constant."""
    one, other = _ranks(first), _ranks(second)
    if min(one.std(), other.std()) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
