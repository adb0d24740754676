"""A small classifier with its plan, as trainings take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper, parser

from onnxdfq.images.domain import preset
from onnxdfq.images.guides import guides
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.source import Subject
from passes.allocate_bits import uniform_bits
from passes.base import run_passes
from passes.fold_batchnorm import FoldBatchNorm
from passes.paper_placement import place_as_published
from passes.plan import QuantPlan, decide
from passes.targets import TARGETS

CLASSES, SIDE = 4, 8
TEXT = """g (float[{batch}, 3, 8, 8] x) => (float[{batch}, 4] y) {{
    [first] a = Conv<pads = [1, 1, 1, 1]>(x, w1)
    {norm}
    [relu] r = Relu(n)
    [second] c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
    [sum] s = Add(c, r)
    [again] t = Relu(s)
    [pool] p = GlobalAveragePool(t)
    [flatten] f = Flatten(p)
    [last] y = Gemm<transB = 1>(f, w3, b3)
}}"""


@dataclass
class Trainee:
    """What ``train`` is given: the unfolded subject, the folded model with its plan, gains, and pixels held out."""

    subject: Subject
    model: onnx.ModelProto
    plan: QuantPlan
    gains: dict[str, np.ndarray]
    held_out: np.ndarray


def made(bits: int = 4, norm: bool = True, batch: int | None = None) -> Trainee:
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    held = {
        "w1": weights(8, 3, 3, 3), "w2": weights(8, 8, 3, 3), "b2": np.zeros(8, np.float32),
        "w3": 4 * weights(CLASSES, 8), "b3": np.zeros(CLASSES, np.float32),
    }  # fmt: skip
    if norm:
        gamma = np.float32([1, -0.5, 2, 0, 1, 1, 0.1, 1])
        held |= {"gamma": gamma, "beta": np.full(8, 0.1, np.float32), "mean": np.zeros(8, np.float32),
                 "variance": np.full(8, 0.5, np.float32)}  # fmt: skip
    line = "n = BatchNormalization(a, gamma, beta, mean, variance)" if norm else "n = Identity(a)"
    text = TEXT.format(batch=batch or "N", norm=line)
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    model = onnx.shape_inference.infer_shapes(model)
    into = ModelInput("x", 3, SIDE, SIDE, "NCHW", batch, np.dtype(np.float32))
    subject = Subject(model, into, preset("imagenet", 3, ""), guides(model))
    graph = gs.import_onnx(model)
    gains: dict[str, np.ndarray] = {}
    run_passes(graph, [FoldBatchNorm(gains=gains)])
    placed = place_as_published(graph)
    plan = decide(
        graph, {"r": (0.0, 3.0), "t": (0.0, 6.0)}, TARGETS["ort-cpu"],
        uniform_bits(graph, placed, bits, all_layers=True), placed, bits,
    )  # fmt: skip
    pixels = rng.uniform(0, 255, (22, 3, SIDE, SIDE)).round().astype(np.float32)
    return Trainee(subject, onnx.shape_inference.infer_shapes(gs.export_onnx(graph)), plan, gains, pixels)


@pytest.fixture
def trainee() -> Callable[..., Trainee]:
    """Makes one: bits of weights and activations, whether it has a normalization, the batch that it insists on."""
    return made
