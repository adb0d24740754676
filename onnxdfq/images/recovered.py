"""Statistics to lead images by where BatchNormalization was folded away, or never was.

    y_j = sum_i v_ji * x_i + c_j                    a convolution, and after it the normalization of training
    n_j = gamma_j (y_j - mu_j) / sigma_j + beta_j   in one layer:  w_ji = (gamma_j / sigma_j) v_ji
                                                                   b_j  = (gamma_j / sigma_j) (c_j - mu_j) + beta_j

On the data of training n_j has mean beta_j and standard deviation |gamma_j|: the two numbers that folding loses, for
(w, b) fits any of them. What brings them back is the input, as weights and biases say what they make of it:

    beta_j    =  b_j + sum_i (sum_k w_jik) E[x_i]                        k: places under the kernel
    gamma_j^2 =  sum_ik sum_i'k' w_jik w_ji'k' cov(x_ik, x_i'k')

The covariances are between all channels and places of a layer's input. Formulas that take channels as independent
(passes/propagate_moments.py) therefore drift, layer by layer; images that go through the model carry them along. Images
with the spectrum of photographs are enough, and training data is not needed: they are procedural ones.

Layers that no other layer follows are left out. They write results, which no normalization follows, and what a
procedural image shows there (no class, no object) is not what images shall be led to. In part that holds for all later
layers, which answer to things: images are led by the first half only, those that answer to light and edges.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from onnxdfq.engine.ort import Session, tapped
from onnxdfq.images.channel_sums import ChannelSums
from onnxdfq.images.procedural import procedural
from onnxdfq.images.source import Subject, batch_size

IMAGES = 32  # procedural ones; twice as many bring the statistics hardly closer to those of training
NARROWEST = 0.1  # of the layer's root mean square deviation: a channel that hardly moves shall not outweigh the others
CONVOLUTIONS = ("Conv", "ConvTranspose")
LAYERS = (*CONVOLUTIONS, "Gemm", "MatMul")


def recovered(subject: Subject) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation of each channel [C] of what convolutions write, by tensor, for ``Teacher``.

    Empty where there is nothing to recover: every convolution is normalized or writes a result. Always the same
    numbers for the same model. Raises OnnxdfqError if ONNX Runtime refuses the model.
    """
    names = [name for name in _inner(subject.model.graph) if name not in subject.guides.statistics]
    if not names:
        return {}
    session = Session(tapped(subject.model, names))
    sums = ChannelSums(names)
    for feeds in _feeds(subject):
        sums.add(session.run(feeds))
    found = {}
    for name, (mean, spread) in sums.moments().items():
        std = np.sqrt(spread**2 + NARROWEST**2 * (spread**2).mean())
        if np.isfinite(std).all() and std.min() > 0:
            found[name] = (mean.astype(np.float32), std.astype(np.float32))
    return found


def early(subject: Subject) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Those of ``recovered`` that images can be led and judged by: of the first half of the layers."""
    found = recovered(subject)
    return {name: found[name] for name in list(found)[: -(-len(found) // 2)]}


def _inner(graph: onnx.GraphProto) -> list[str]:
    """What convolutions write, in the order of the graph, where another layer follows."""
    names: list[str] = []
    read: set[str] = set()  # by a layer, directly or not
    for node in reversed(graph.node):
        followed = any(name in read for name in node.output)
        if followed and node.op_type in CONVOLUTIONS:
            names.append(node.output[0])
        if followed or node.op_type in LAYERS:
            read.update(node.input)
    return names[::-1]


def _feeds(subject: Subject) -> Iterator[dict[str, np.ndarray]]:
    """The images in batches that the model accepts, small: all inner tensors of one are held at once."""
    into, rng = subject.into, np.random.default_rng([*b"statistics"])
    size = into.batch or batch_size(into) // 4
    for _ in range(-(-IMAGES // size)):
        pixels = procedural(size, into.channels, into.height, into.width, rng)
        yield from into.feeds([subject.domain.to_model(pixels, into)])
