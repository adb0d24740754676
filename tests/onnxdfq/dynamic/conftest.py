"""Three levels of a small classifier that answer differently, and bundles of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdfq.dynamic.bundle import Input, LevelFile, Manifest, level_file, write_bundle
from onnxdfq.dynamic.cascade import Cascade
from onnxdfq.dynamic.single_file import with_cascade, with_router

SIDE, CLASSES = 6, 5
TEXT = """g (float[{batch}, 3, 6, 6] x) => (float[{batch}, 5] y, float[{batch}, 16] features) {{
    c = Conv(x, w1)
    r = Relu(c)
    p = GlobalAveragePool(r)
    features = Flatten(p)
    g = MatMul(features, w2)
    {last}
}}"""


def level(noise: float, *, batch: str = "N", softmax: bool = False, opset: int = 17, seed: int = 1) -> onnx.ModelProto:
    """The classifier with so much noise on its weights."""
    last = "y = Softmax<axis = 1>(g)" if softmax else "y = Identity(g)"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {TEXT.format(batch=batch, last=last)}')
    rng, noisy = np.random.default_rng(0), np.random.default_rng(seed)
    for name, shape in {"w1": (16, 3, 3, 3), "w2": (16, CLASSES)}.items():
        values = rng.normal(size=shape) + noise * noisy.normal(size=shape)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    onnx.checker.check_model(model)
    return model


def router(levels: int, batch: str = "N") -> onnx.ModelProto:
    """One that goes by the mean of each channel."""
    text = f"""r (float[{batch}, 3, 6, 6] x) => (float[{batch}, {levels}] levels) {{
        p = GlobalAveragePool(x)
        f = Flatten(p)
        levels = MatMul(f, w)
    }}"""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    values = np.random.default_rng(3).normal(size=(3, levels)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    return model


def images(count: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


Written = Callable[..., Path]


@pytest.fixture
def bundle(tmp_path: Path) -> Written:
    """Writes one; the single file with it."""

    def write(
        models: list[onnx.ModelProto],
        cascade: Cascade | None = None,
        leaning: tuple[float, ...] = (),
        *,
        batch: int | None = None,
        probabilities: bool = False,
    ) -> Path:
        chooser = router(len(models)) if cascade is None else None
        manifest = Manifest(
            model="g.onnx",
            target="ort-cpu",
            decision="cascade" if cascade else "router",
            probabilities=probabilities,
            input=Input("x", (1, 3, SIDE, SIDE), "NCHW", batch, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "RGB"),
            outputs=("y", "features"),
            levels=tuple(LevelFile(str(number), level_file(number), 4.0**number) for number in range(len(models))),
            asked=cascade.levels if cascade else (),
            thresholds=cascade.thresholds if cascade else (),
            leaning=leaning,
            router_bitops=0.5 if chooser else 0.0,
        )
        if cascade is not None:
            single = with_cascade(models, cascade, probabilities=probabilities)
        else:
            assert chooser is not None
            single = with_router(models, chooser, np.array(leaning))
        folder = tmp_path / "g.dynamic"
        write_bundle(folder, manifest, models, single, chooser, {"report.json": b"{}"})
        return folder

    return write
