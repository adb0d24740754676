"""onnxdfq synth, and the images of quantize, as a user meets them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image

from onnxdfq.cli import main
from onnxdfq.images import inversion, source

pytestmark = pytest.mark.usefixtures("quick")
RELU = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }'


def command(*arguments: object) -> int:
    return main([str(each) for each in arguments])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def fours(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The classifier, for batches of four, each a shard."""
    monkeypatch.setattr(source, "BATCH_PIXELS", 4 * 16 * 16)
    model = onnx.load(small)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, small)
    return small


def test_images_labels_and_a_sheet(fours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sheet = fours.parent / "new" / "images.npz", fours.parent / "sheet.png"
    assert command("synth", fours, "-n", 10, "--effort", 1, "-o", out, "--sheet", sheet, "--quiet") == 0
    with np.load(out) as data:
        assert data["images"].shape == (10, 16, 16, 3)
        assert data["images"].dtype == np.uint8
        assert data["labels"].shape == (10,)
        assert set(data["labels"]) <= {0, 1, 2, 3}
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    printed = capsys.readouterr()
    said = " ".join(printed.out.split())
    assert printed.err == ""
    assert "images 10, inverted on cpu in 20 steps, led by statistics recovered for 2 layers and 4 classes" in said
    assert "rung 2 of 3" in said
    assert "image quality 0." in said
    assert "images.npz" in said
    assert "sheet.png" in said


def test_the_same_seed_gives_the_same_bytes_and_quantize_takes_them(
    fours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = fours.parent / "one.npz", fours.parent / "other.npz"
    for out in (one, other):
        assert command("synth", fours, "-n", 24, "--source", "procedural", "-o", out, "--quiet") == 0
    assert one.read_bytes() == other.read_bytes()
    capsys.readouterr()
    assert command("quantize", fours, "--recipe", "fast", "--images", one, "--quiet", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == "16 for calibration, 8 held out; of 24 given"


def test_mistakes(small: Path, fails: Callable[..., str]) -> None:
    out, photos = small.parent / "images.npz", small.parent / "photos.npz"
    np.savez(photos, images=np.zeros((4, 16, 16, 3), np.uint8))
    onnx.save(parser.parse_model(RELU), small.parent / "relu.onnx")
    before = files(small.parent)
    for arguments, said in (
        ([], "arguments are required: -o/--output"),
        (["-o", out, "-n", 0], "-n 0: there is nothing to make. give 1 or more"),
        (["-o", out, "-n", -3], "-n -3: there is nothing to make"),
        (["-o", out, "-n", "many"], "argument -n: invalid int value: 'many'"),
        (["-o", small], "is the input model"),
        (["-o", small.parent], "is a folder"),
        (["-o", small / "images.npz"], "can't be written"),
        (["-o", out, "--sheet", small / "sheet.png"], "can't be written"),
        (["-o", out, "--sheet", small.parent / "." / "images.npz"], "would be written twice. give -o and --sheet"),
        (["-o", out, "--source", "dream"], "--source dream is not known. choose from procedural, inversion, gdfq"),
        (["-o", out, "--images", photos, "--source", "gdfq"], "--images and --source gdfq exclude each other"),
        (["-o", out, "--images", photos, "--source", "procedural"], "only --source inversion starts from images"),
        (["-o", out, "--images", "nowhere"], "nowhere does not exist. give a folder of images, or an npz"),
        (["-o", out, "--effort", 9], "--effort 9 is not known. choose 1 to 5"),
        (["-o", out, "--effort", 0], "--effort 0 is not known"),
        (["-o", out, "--time-budget", "x"], "--time-budget: x is no time such as 90s, 5m or 1h"),
        (["-o", out, "--time-budget", "s"], "--time-budget: s is no time"),
        (["-o", out, "--time-budget", "0s"], "--time-budget 0 is no time. give seconds, such as 120s, or 5m"),
        (["-o", out, "--time-budget", "nan"], "--time-budget nan is no time"),
        (["-o", out, "--time-budget", "inf"], "--time-budget inf is no time"),
        (["-o", out, "--time-budget", "60s", "--effort", 1], "--effort and --time-budget exclude each other"),
        (["-o", out, "--cache", small], "can't be written"),
        (["-o", out, "--cache", small / "cache"], "give another --cache"),
        (["-o", out, "--domain", "mars"], "mars"),
        (["-o", out, "--seed", -1], "-1"),
    ):
        assert said in fails("synth", small, *arguments), arguments
    line = fails("synth", small.parent / "relu.onnx", "-o", out, "--source", "inversion")
    assert line.endswith("nor class scores to lead images by. choose from procedural")
    assert files(small.parent) == before


def test_one_process_too_many(small: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert "WORLD_SIZE is 2, but RANK is not set" in fails("quantize", small)
    said = fails("synth", small, "-o", small.parent / "images.npz")
    assert "WORLD_SIZE is 2, but RANK is not set. start it with torchrun, or unset it" in said
    assert files(small.parent) == {"small.onnx"}


# -- stopped and resumed


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(
    fours: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, out, whole = (fours.parent / name for name in ("cache", "images.npz", "whole.npz"))
    make, shared = inversion.Inversion.make, ("synth", fours, "-n", 10, "--effort", 1, "--quiet")

    def stopped(self: inversion.Inversion, seed: int, shard: int, *others: object) -> object:
        if shard == 2:
            signal.raise_signal(signal.SIGINT)
        return make(self, seed, shard)

    with monkeypatch.context() as patch:
        patch.setattr(inversion.Inversion, "make", stopped)
        assert command(*shared, "-o", out, "--cache", cache) == 130
        (line,) = capsys.readouterr().err.splitlines()
        goes_on = f"the same command goes on with what is in {cache}"
        assert line == f"onnxdfq: stopped; no result was written; {goes_on}"
        assert command(*shared, "-o", out) == 130
        assert "goes on" not in capsys.readouterr().err
    assert files(fours.parent) == {"small.onnx", "cache"}
    names = [path.name for path in cache.rglob("*") if path.is_file()]
    assert sorted(names) == ["00000.npz", "00001.npz", "about.json"]
    assert command(*shared, "-o", out, "--cache", cache) == 0
    assert "2 of 3 shards from the cache" in " ".join(capsys.readouterr().out.split())
    assert command(*shared, "-o", whole) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_shard_of_another_form_is_made_again(fours: Path) -> None:
    cache, out, again = (fours.parent / name for name in ("cache", "images.npz", "again.npz"))
    shared = ("synth", fours, "-n", 6, "--effort", 1, "--quiet", "--cache", cache)
    assert command(*shared, "-o", out) == 0
    (shard,) = cache.rglob("00001.npz")
    np.savez(shard, pixels=np.zeros((4, 3, 8, 8), np.uint8), labels=np.zeros(4, np.int64))
    assert command(*shared, "-o", again) == 0
    assert again.read_bytes() == out.read_bytes()


# -- images that the user has


def test_quantize_with_a_folder_of_photographs(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs", "elks"):
        folder = small.parent / "photos" / name
        folder.mkdir(parents=True)
        for k in range(4):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{k}.png")
    out = small.parent / "out.onnx"
    arguments = ("quantize", small, "--target", "ort-cpu", "--images", small.parent / "photos", "-o", out)
    assert command(*arguments, "--quiet") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "images 8 for calibration, 4 held out; of 12 given" in said
    assert "4 images that judge" in said
    assert out.exists()


def test_quantize_with_images_to_start_from(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = small.parent / "photos.npz"
    np.savez(photos, images=np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8))
    arguments = ("quantize", small, "--target", "ort-cpu", "--images", photos, "--source", "inversion", "--effort", 1)
    assert command(*arguments, "--quiet") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 for calibration, 4 held out; inverted on cpu in 20 steps" in said


@pytest.mark.parametrize("count", [0, 1])
def test_quantize_with_too_few_images(count: int, small: Path, fails: Callable[..., str]) -> None:
    photos = small.parent / "photos.npz"
    np.savez(photos, images=np.zeros((count, 16, 16, 3), np.uint8))
    line = fails("quantize", small, "--images", photos, "--quiet")
    assert ("1 images are too few. give two or more" if count else "holds no images") in line
    assert files(small.parent) == {"small.onnx", "photos.npz"}


def test_quantize_again_with_other_bits_makes_no_image_again(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache, shared = small.parent / "cache", ("quantize", small, "--target", "ort-cpu", "--effort", 1, "--quiet")
    said = []
    for bits in (8, 4):
        out = small.parent / f"{bits}.onnx"
        assert command(*shared, "--cache", cache, "--bits", bits, "-o", out) == 0
        said.append(" ".join(capsys.readouterr().out.split()))
    assert "from the cache" not in said[0]
    assert "1 of 1 shards from the cache" in said[1]
    assert command(*shared, "--bits", 4, "-o", small.parent / "plain.onnx") == 0
    assert (small.parent / "plain.onnx").read_bytes() == (small.parent / "4.onnx").read_bytes()
