"""A folder with everything that the documentation speaks of, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

from onnxdfq import run
from onnxdfq.cli import main
from onnxdfq.stages import prepare

ROOT = Path(__file__).parents[2]
# A classifier with BatchNormalization, layers to pair, and the node that the documentation asks about
MODEL = """<ir_version: 8, opset_import: ["" : 17]> model (float[N, 3, 16, 16] image) => (float[N, 4] scores) {
    [Conv_0] a = Conv<pads = [1, 1, 1, 1]>(image, w0)
    [bn_0] an = BatchNormalization(a, g, b, m, v)
    [relu_0] ar = Relu(an)
    [Conv_12] c = Conv<pads = [1, 1, 1, 1]>(ar, w1)
    [bn_1] cn = BatchNormalization(c, g, b, m, v)
    [relu_1] cr = Relu(cn)
    [Conv_13] d = Conv(cr, w2)
    [bn_2] dn = BatchNormalization(d, g, b, m, v)
    [relu_2] dr = Relu(dn)
    [pool] p = GlobalAveragePool(dr)
    [flatten] f = Flatten(p)
    [last] scores = Gemm<transB = 1>(f, w3, w4)
}"""
SHAPES = {"w0": (16, 3, 3, 3), "w1": (16, 16, 3, 3), "w2": (16, 16, 1, 1), "w3": (4, 16), "w4": (4,)}


@pytest.fixture(scope="module")
def few_images() -> Iterator[None]:
    """Few images, and no onnxsim: the commands are tried, not what comes of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "MOST_IMAGES", 8)
        patch.setattr(run, "MOST_TRAINING_IMAGES", 8)
        patch.setattr(prepare, "simplified", lambda model, run: (model, ""))
        yield


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, few_images: None) -> Path:
    """Models, images and what earlier commands would have written."""
    folder = tmp_path_factory.mktemp("stock")
    rng = np.random.default_rng(0)
    model = parser.parse_model(MODEL)
    values = {name: rng.normal(0, np.prod(shape[1:]) ** -0.5, shape) for name, shape in SHAPES.items()}
    values |= {"g": np.ones(16), "b": np.zeros(16), "m": np.zeros(16), "v": np.ones(16)}
    tensors = [numpy_helper.from_array(each.astype(np.float32), name) for name, each in values.items()]
    model.graph.initializer.extend(tensors)
    onnx.save(model, folder / "model.onnx")
    for name in ("labelled/a", "labelled/b", "labelled/c", "labelled/d", "calibration", "photos"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    np.savez(folder / "images.npz", images=rng.integers(0, 255, (8, 16, 16, 3), np.uint8))
    (folder / "out").mkdir()
    np.savez(
        folder / "out" / "digits.npz", images=rng.integers(0, 255, (8, 16, 16, 3), np.uint8), labels=np.arange(8) % 4
    )
    (folder / "layers.toml").write_text('[[node]]\nname = "Conv_13"\nfloat = true\n')
    (folder / "models").symlink_to(ROOT / "models")
    fast = ["quantize", str(folder / "model.onnx"), "--recipe", "fast", "--quiet"]
    for target in ("tensorrt", "ort-cpu", "openvino"):
        assert main([*fast, "--target", target, "--plan-out", str(folder / f"plan.{target}.json")]) == 0
    (folder / "plan.json").write_bytes((folder / "plan.tensorrt.json").read_bytes())
    (folder / "model.int8.onnx").write_bytes((folder / "model.ort-cpu.int8.onnx").read_bytes())
    levels = ["--recipe", "dynadfq", "--bits", "8/fp32", "--effort", "1", "-o", str(folder / "model.dynamic")]
    assert main(["quantize", str(folder / "model.onnx"), "--quiet", *levels]) == 0
    return folder


@pytest.fixture
def desk(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """A copy of it to work in."""
    import shutil

    def copied() -> Path:
        shutil.copytree(stock, tmp_path / "desk", symlinks=True)
        monkeypatch.chdir(tmp_path / "desk")
        return tmp_path / "desk"

    return copied
