"""The command line as a user meets it: results, bad input, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxdfq.cli import main
from onnxdfq.model_file import write_bytes

DIGITS = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A classifier small enough to be quantized in a second."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        small (float[N, 3, 16, 16] image) => (float[N, 4] scores) {
            a = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)
            r = Relu(a)
            p = GlobalAveragePool(r)
            f = Flatten(p)
            scores = Gemm<transB = 1>(f, w2, b2)
        }"""
    )
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (4, 16), "b2": (4,)}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name))
    path = tmp_path / "small.onnx"
    onnx.save(model, path)
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistake prints; anything else fails the test."""
    assert main([str(each) for each in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if " s, " not in line]  # stages that had finished before
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("onnxdfq: ")
    return lines[0]


def test_two_targets_and_a_report(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", str(small), "--recipe", "fast", "--target", "tensorrt", "--target", "ort-cpu", "--json"]
    assert main([*arguments, "--report", str(small.parent / "report.json")]) == 0
    assert files(small.parent) == {"small.onnx", "small.tensorrt.int8.onnx", "small.ort-cpu.int8.onnx", "report.json"}
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((small.parent / "report.json").read_text())
    assert report["targets"]["ort-cpu"]["layers"] == 2
    original, quantized = onnx.load(small), onnx.load(small.parent / "small.ort-cpu.int8.onnx")
    assert list(quantized.graph.input) == list(original.graph.input)
    assert list(quantized.graph.output) == list(original.graph.output)


def test_the_same_seed_gives_the_same_bytes(small: Path) -> None:
    written = []
    for name in ("first", "second"):
        out = small.parent / f"{name}.onnx"
        assert main(["quantize", str(small), "--target", "ort-cpu", "-o", str(out), "--quiet", "--seed", "3"]) == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("command", ["quantize", "inspect"])
def test_files_that_are_no_model(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, truncated = tmp_path / "text.onnx", tmp_path / "truncated.onnx"
    text.write_text("this is not a model\n" * 30)
    truncated.write_bytes(DIGITS.read_bytes()[:150_000])
    before = files(tmp_path)
    assert "does not exist" in failure(capsys, command, tmp_path / "missing.onnx")
    assert "is a folder" in failure(capsys, command, tmp_path)
    for path in (text, truncated):
        assert "not an ONNX model" in failure(capsys, command, path)
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "no ONNX graph" in failure(capsys, command, tmp_path / "empty.onnx")
    assert files(tmp_path) == before | {"empty.onnx"}


def test_external_data_that_is_missing(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(onnx.load(small), small, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (small.parent / "weights.bin").unlink()
    assert "another file that can't be read" in failure(capsys, "quantize", small)
    assert files(small.parent) == {"small.onnx"}


def test_external_data_is_read(small: Path) -> None:
    onnx.save(onnx.load(small), small, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert main(["quantize", str(small), "--recipe", "fast", "--quiet"]) == 0


def test_nothing_to_quantize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu(x) }'
    onnx.save(parser.parse_model(text), tmp_path / "relu.onnx")
    assert "no layer that can be quantized" in failure(capsys, "quantize", tmp_path / "relu.onnx", "--quiet")


def test_already_quantized(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = small.parent / "q.onnx"
    assert main(["quantize", str(small), "--recipe", "fast", "-o", str(out), "--quiet"]) == 0
    capsys.readouterr()
    assert "already quantized" in failure(capsys, "quantize", out)


def test_unknown_domain_of_an_operator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = [1, 3, 8, 8]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Magic", ["x"], ["y"], domain="acme")], "g", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "acme.onnx")
    assert "acme::Magic" in failure(capsys, "quantize", tmp_path / "acme.onnx")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bits", "5"], "--bits 5"),
        (["--bits", "many"], "--bits many"),
        (["--target", "toaster"], "toaster"),
        (["--recipe", "instant"], "instant"),
        (["--domain", "mars"], "mars"),
        (["--mean", "1,2"], "--std"),
        (["--mean", "1,2", "--std", "1,1"], "--mean and --std need"),
        (["--input-shape", "3x16x16"], "3x16x16"),
        (["--seed", "-1"], "-1"),
        (["--frobnicate"], "--frobnicate"),
        (["--device", "tpu"], "tpu"),
        (["--eval", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options(arguments: list[str], said: str, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in failure(capsys, "quantize", small, "--recipe", "fast", *arguments)
    assert files(small.parent) == {"small.onnx"}


def test_output_that_cannot_be_written(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is the input model" in failure(capsys, "quantize", small, "-o", small)
    blocked = small.parent / "file"
    blocked.write_text("")
    assert "can't be written" in failure(capsys, "quantize", small, "-o", blocked / "out.onnx")


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk: the write fails in the middle."""
    script = (
        "import resource, signal, sys; from pathlib import Path; from onnxdfq.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import onnxdfq.api as api; write = api.write_model\n"
        "def limited(model, path):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY)); write(model, path)\n"
        "api.write_model = limited\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "out.onnx"
    command = [sys.executable, "-c", script, "quantize", str(DIGITS), "--recipe", "fast", "-o", str(out), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "can't be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert files(tmp_path) == set()


def test_a_kill_in_the_middle_of_writing_leaves_no_half_file(tmp_path: Path) -> None:
    """The file system shows the old file or the new one; a temporary leftover never has the name asked for."""
    path = tmp_path / "model.onnx"
    write_bytes(b"old", path)
    pid = os.fork()
    if pid == 0:
        os.fsync = lambda handle: time.sleep(60)  # type: ignore[assignment]
        write_bytes(b"new" * 100_000, path)
        os._exit(0)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert path.read_bytes() == b"old"
    write_bytes(b"new", path)
    assert path.read_bytes() == b"new"


def test_the_fast_recipe_and_inspect_never_import_torch(small: Path) -> None:
    for arguments in (["quantize", str(small), "--recipe", "fast", "--quiet"], ["inspect", str(small)]):
        script = "import sys; from onnxdfq.cli import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_inspect_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(DIGITS), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folded"] == found["statistics"] == 17
    assert found["classes"] == 10
    assert found["layers"] == found["targets"]["ort-cpu"]["layers"] == 18
    assert main(["inspect", str(DIGITS)]) == 0
    assert "17 BatchNormalization statistics and 10 classes" in " ".join(capsys.readouterr().out.split())
