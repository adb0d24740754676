"""A small classifier that images can be made for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdfq.images.domain import preset
from onnxdfq.images.guides import guides
from onnxdfq.images.model_input import ModelInput
from onnxdfq.images.source import Subject

CLASSES = 5
TEXT = """g (float[{dims}] x) => (float[N, {classes}] y) {{
    [first] a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    {norm}
    r = Relu(n)
    [second] c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
    s = Relu(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    [last] y = Gemm<transB = 1>(f, w3, b3)
}}"""
NORM = "n = BatchNormalization(a, one, zero, mean, variance)"


def made(classes: int = CLASSES, side: int = 12, batch: int | None = None, norm: str = NORM) -> Subject:
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    held = {
        "w1": weights(8, 3, 3, 3), "b1": np.zeros(8, np.float32), "w2": weights(16, 8, 3, 3),
        "b2": np.zeros(16, np.float32), "w3": 4 * weights(classes, 16), "b3": np.zeros(classes, np.float32),
    }  # fmt: skip
    if norm == NORM:
        held |= {
            "one": np.ones(8, np.float32), "zero": np.zeros(8, np.float32),
            "mean": np.float32([0.2, -0.2, 0.1, 0, 0, 0.3, 0, 0]), "variance": np.full(8, 0.3, np.float32),
        }  # fmt: skip
    text = TEXT.format(dims=f"{batch or 'N'}, 3, {side}, {side}", classes=classes, norm=norm)
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    model = onnx.shape_inference.infer_shapes(model)
    into = ModelInput("x", 3, side, side, "NCHW", batch, np.dtype(np.float32))
    return Subject(model, into, preset("imagenet", 3, ""), guides(model))


@pytest.fixture
def classifier() -> Callable[..., Subject]:
    """Makes subjects: classes, side of the image, the batch that the model insists on, what stands for the norm."""
    return made
