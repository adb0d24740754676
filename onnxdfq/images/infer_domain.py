"""Find out what a model was fed with, from the model alone.

1. A BatchNormalization behind the first convolution remembers mu_j and sigma_j of that convolution's output. With
   S_jc the sum of filter j over channel c, mu_j - b_j = sum_c S_jc m_c is linear in the mean m of the input; and
   sigma_j^2 = s^2 w_j' K w_j with K the correlation of neighbouring pixels in photographs gives its deviation s.
2. Without one, the model is asked: on images at the wrong scale (0..255 where about -2..2 was meant, or the other way
   round) its answers hardly depend on the image, or explode.
3. What neither decides (numbers around one: is it -1..1 or normalized by ImageNet's statistics?) the file's origin
   does: TensorFlow's padding or layout suggests -1..1, a single channel 0..1, everything else ImageNet's statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxdfq.images.domain import PRESETS, InputDomain, domain, preset
from onnxdfq.images.model_input import ModelInput

PHOTO_MEAN, PHOTO_STD = 116.0, 75.0  # of pixels in photographs, all taken together as BatchNormalization does
NEIGHBOUR_CORRELATION, CHANNEL_CORRELATION = 0.95, 0.9
UNLIKE_ANY = 1.5  # a distance beyond which no preset is believed
EXPLODED = 6.0  # outputs that grow by more than this with the scale are not answers but overflow


def infer_domain(
    graph: gs.Graph, into: ModelInput, pixels: np.ndarray, run: Callable[[np.ndarray], np.ndarray]
) -> InputDomain:
    """The most likely domain of ``into``.

    graph: canonical, with BatchNormalization still in it. pixels: some images [N, C, H, W], 0..255. run: the first
    output [N, ...] of the model for a batch that fits it.
    """
    if into.dtype == np.uint8:
        return preset("raw255", into.channels, "the input is uint8")
    layer = _first_layer(graph, into.name)
    if layer is not None:
        moments = _input_moments(layer)
        if moments is not None:
            return _nearest(*moments, into.channels)
    return _asked(graph, into, pixels, run, layer)


# -- 1. what the first normalization remembers


def _first_layer(graph: gs.Graph, name: str) -> gs.Node | None:
    """The convolution that reads the input, behind nothing but a change of layout."""
    tensor = next(each for each in graph.inputs if each.name == name)
    while len(tensor.outputs) == 1 and tensor.outputs[0].op in ("Transpose", "Identity", "Pad"):
        tensor = tensor.outputs[0].outputs[0]
    found = [node for node in tensor.outputs if node.op in ("Conv", "BatchNormalization")]
    return found[0] if len(tensor.outputs) == 1 and found and isinstance(found[0].inputs[1], gs.Constant) else None


def _input_moments(layer: gs.Node) -> tuple[float, float] | None:
    """Mean and standard deviation of the model's input; None without statistics or with too few filters."""
    if layer.op == "BatchNormalization":
        mean, variance = (tensor.values.astype(np.float64) for tensor in layer.inputs[3:5])
        return float(mean.mean()), float(np.sqrt(variance.mean()))
    reader = layer.outputs[0].outputs
    if len(reader) != 1 or reader[0].op != "BatchNormalization":
        return None
    if not all(isinstance(tensor, gs.Constant) for tensor in reader[0].inputs[1:5]):
        return None
    weight = layer.inputs[1].values.astype(np.float64)
    mean, variance = (tensor.values.astype(np.float64) for tensor in reader[0].inputs[3:5])
    if len(layer.inputs) > 2 and isinstance(layer.inputs[2], gs.Constant):
        mean = mean - layer.inputs[2].values
    sums = weight.reshape(len(weight), -1).sum(1)
    energy = float((sums**2).sum())
    # Sums, not a middle over filters: those that see brightness count most, for edges depend on how sharp images are.
    deviation = np.sqrt(variance.sum() / max(float(_response(weight).sum()), 1e-30))
    return (float(sums @ mean / energy) if energy > 0 else 0.0), float(deviation)


def _response(weight: np.ndarray) -> np.ndarray:
    """Variance [O] of each filter's output on photographs whose pixels have variance 1. weight: [O, C, h, w]."""
    height, width = weight.shape[2], int(np.prod(weight.shape[3:]))
    places = np.stack(np.meshgrid(range(height), range(width), indexing="ij"), -1).reshape(-1, 2)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    channels = weight.shape[1]
    colours = np.full((channels, channels), CHANNEL_CORRELATION) + (1 - CHANNEL_CORRELATION) * np.eye(channels)
    correlation = np.kron(colours, NEIGHBOUR_CORRELATION**distance)
    flat = weight.reshape(len(weight), -1)
    return np.einsum("oi,ij,oj->o", flat, correlation, flat)


def _nearest(mean: float, std: float, channels: int) -> InputDomain:
    """The preset under which photographs have the mean and deviation found."""

    def distance(name: str) -> float:
        expected_mean = (PHOTO_MEAN - np.mean(PRESETS[name][0])) / np.mean(PRESETS[name][1])
        expected_std = PHOTO_STD / np.mean(PRESETS[name][1])
        return abs(mean - expected_mean) / expected_std + abs(np.log(std / expected_std))

    # Statistics by colour say nothing about grey images.
    best = min((name for name in PRESETS if channels > 1 or len(PRESETS[name][0]) == 1), key=distance)
    found = f"the first BatchNormalization saw inputs with mean {mean:.3g} and deviation {std:.3g}"
    if distance(best) < UNLIKE_ANY:
        return preset(best, channels, found)
    scale = PHOTO_STD / std
    return domain("fitted", (PHOTO_MEAN - mean * scale,), (scale,), "RGB", channels, f"{found}, like no usual form")


# -- 2. asking the model, and 3. its origin


def _asked(
    graph: gs.Graph,
    into: ModelInput,
    pixels: np.ndarray,
    run: Callable[[np.ndarray], np.ndarray],
    layer: gs.Node | None,
) -> InputDomain:
    small, origin = _origin(graph, into)
    near_one = preset(small, into.channels, origin)
    centred = preset(
        "caffe", into.channels, "its answers depend on the image only at this scale; no offset in its biases"
    )
    large = preset(
        "raw255", into.channels, "its answers depend on the image only at this scale; its biases take off a mean"
    )
    answers = {each.name: run(each.to_model(pixels, into)) for each in (near_one, centred)}
    if any(each.dtype.kind != "f" or len(each) != len(pixels) for each in answers.values()):
        return near_one  # not one answer for each image
    near, far = answers[small].reshape(len(pixels), -1), answers[centred.name].reshape(len(pixels), -1)
    if near.shape[1] < 2 or not np.isfinite(far).all():
        return near_one
    varied = _dependence(far) > 5 * _dependence(near)
    if not varied or far.std() > EXPLODED * near.std():
        return near_one
    return large if layer is not None and _bias_offset(layer) > PHOTO_MEAN / 4 else centred


def _dependence(answers: np.ndarray) -> float:
    """How much of the spread of the answers [N, K] is owed to the image: variance over images by variance over all."""
    return float(answers.var(axis=0).mean() / max(float(answers.var()), 1e-30))


def _bias_offset(layer: gs.Node) -> float:
    """The input mean that the biases take off, by least squares of -bias on the sums of the filters."""
    if len(layer.inputs) < 3 or not isinstance(layer.inputs[2], gs.Constant):
        return 0.0
    weight = layer.inputs[1].values.astype(np.float64)
    sums = weight.reshape(len(weight), -1).sum(1)
    bias = layer.inputs[2].values.astype(np.float64)
    spread = float(((sums - sums.mean()) ** 2).sum())
    return float(-((sums - sums.mean()) * (bias - bias.mean())).sum() / spread) if spread > 0 else 0.0


def _origin(graph: gs.Graph, into: ModelInput) -> tuple[str, str]:
    """The usual preset of the framework that a graph looks to come from, and what it was recognised by."""
    if into.channels == 1:
        return "unit", "the usual form of single-channel images"
    if into.layout == "NHWC":
        return "pm1", "channels last, as TensorFlow exports"
    for node in graph.nodes:
        pads = node.attrs.get("pads", [])
        one_sided = len(pads) == 4 and pads[0] < pads[2] and pads[1] < pads[3]
        if node.op == "Conv" and (one_sided or node.attrs.get("auto_pad") == "SAME_UPPER"):
            return "pm1", "its strided convolutions pad as TensorFlow's do"
    return "imagenet", "the usual form of colour images"
