"""The command line as a user meets it: results, bad input, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, parser

from onnxdfq.cli import main
from onnxdfq.model_file import write_bytes
from onnxdfq.stages import ranges
from passes.targets import TARGETS

DIGITS = Path(__file__).parents[2] / "models" / "digits_mobilenet.onnx"


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_two_targets_and_a_report(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", str(small), "--recipe", "fast", "--target", "tensorrt", "--target", "ort-cpu", "--json"]
    assert main([*arguments, "--report", str(small.parent / "report.json")]) == 0
    assert files(small.parent) == {"small.onnx", "small.tensorrt.int8.onnx", "small.ort-cpu.int8.onnx", "report.json"}
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((small.parent / "report.json").read_text())
    assert report["targets"]["ort-cpu"]["layers"] == 4
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


@pytest.mark.parametrize(
    "command", ["quantize", "inspect", "check", "explain", "retarget --target qnn", "synth -o images.npz"]
)
def test_files_that_are_no_model(command: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    text, truncated = tmp_path / "text.onnx", tmp_path / "truncated.onnx"
    text.write_text("this is not a model\n" * 30)
    truncated.write_bytes(DIGITS.read_bytes()[:150_000])
    before = files(tmp_path)
    verb = command.split()
    assert "does not exist" in fails(*verb, tmp_path / "missing.onnx")
    assert "is a folder" in fails(*verb, tmp_path)
    for path in (text, truncated):
        assert "not an ONNX model" in fails(*verb, path)
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "no ONNX graph" in fails(*verb, tmp_path / "empty.onnx")
    assert files(tmp_path) == before | {"empty.onnx"}


def test_external_data_that_is_missing(small: Path, fails: Callable[..., str]) -> None:
    onnx.save(onnx.load(small), small, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (small.parent / "weights.bin").unlink()
    assert "another file that can't be read" in fails("quantize", small)
    assert files(small.parent) == {"small.onnx"}


@pytest.mark.usefixtures("quick")
def test_external_data_is_read(small: Path) -> None:
    onnx.save(onnx.load(small), small, save_as_external_data=True, location="weights.bin", size_threshold=0)
    report = small.parent / "report.json"
    assert main(["quantize", str(small), "--recipe", "fast", "--quiet", "--report", str(report)]) == 0
    whole = small.stat().st_size + (small.parent / "weights.bin").stat().st_size
    assert json.loads(report.read_text())["size"] == whole


def test_nothing_to_quantize(tmp_path: Path, fails: Callable[..., str]) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu(x) }'
    onnx.save(parser.parse_model(text), tmp_path / "relu.onnx")
    assert "no layer that can be quantized" in fails("quantize", tmp_path / "relu.onnx", "--quiet")


@pytest.mark.usefixtures("quick")
def test_already_quantized(small: Path, fails: Callable[..., str]) -> None:
    out = small.parent / "q.onnx"
    assert main(["quantize", str(small), "--recipe", "fast", "-o", str(out), "--quiet"]) == 0
    assert "already quantized" in fails("quantize", out)


def test_unknown_domain_of_an_operator(tmp_path: Path, fails: Callable[..., str]) -> None:
    shape = [1, 3, 8, 8]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Magic", ["x"], ["y"], domain="acme")], "g", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "acme.onnx")
    assert "acme::Magic" in fails("quantize", tmp_path / "acme.onnx")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bits", "9"], "--bits 9 is not supported. choose from 2 to 8"),
        (["--bits", "1"], "--bits 1 is not supported"),
        (["--bits", "many"], "--bits: many is not a number of bits, nor several such as 4/8, 4/6/8 or 8/fp32"),
        (["--bits", "2/4/8"], "several bits are levels, of which each image gets one"),
        (["--bits", "4/"], "--bits: 4/ is not a number of bits"),
        (["--bits", "6/2"], "--bits 6/2 has the higher number first. give 2/6"),
        (["--act-bits", "some"], "--act-bits: some is not a number of bits"),
        (["--act-bits", "9"], "--act-bits 9 is not supported. choose 2 to 8, 16 or none"),
        (["--act-bits", "16", "--target", "ort-cpu"], "ort-cpu has no 16-bit activations. choose 2 to 8, none, or"),
        (["--size-budget", "15%"], "--size-budget: 15% is not a number"),
        (["--size-budget", "15"], "--size-budget 15 is no share"),
        (["--avg-bits", "9"], "--avg-bits 9 is not supported"),
        (["--avg-bits", "4.5", "--bits", "4/8"], "--bits and --avg-bits exclude each other"),
        (["--compensation", "dfmpc"], "--compensation dfmpc is for pairs. give --bits LOW/HIGH"),
        (["--rounding", "up"], "--rounding up is not known. choose from nearest, squant, gptq"),
        (["--scales", "l1"], "--scales l1 is not known. choose from min-max, mse, lp"),
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
        (["--observer", "eyes"], "--observer eyes is not known. choose from min-max"),
        (["--float-type", "fp8"], "--float-type: fp8 is neither fp32 nor fp16"),
        (["--float-type", "fp16", "--target", "ort-cpu"], "ort-cpu takes no --float-type float16"),
        (["--plan", "nowhere.json"], "nowhere.json can't be read"),
        (["--plan", str(DIGITS)], "is not JSON"),
        (["--config", "nowhere.toml"], "nowhere.toml can't be read"),
        (["--config", str(DIGITS)], "is not TOML"),
    ],
)
def test_wrong_options(arguments: list[str], said: str, small: Path, fails: Callable[..., str]) -> None:
    assert said in fails("quantize", small, "--recipe", "fast", *arguments)
    assert files(small.parent) == {"small.onnx"}


CONFIGS = {
    "a pattern that matches nothing": (
        '[[node]]\nname = "backbone/*"\nbits = 4',
        'name = "backbone/*") matches no node',
    ),
    "an operator that matches nothing": ('[[node]]\nop = "LSTM"\nfloat = true', 'op = "LSTM") matches no node'),
    "bits for what has no weights": ('[[node]]\nop = "Relu"\nbits = 4', "matches no layer with weights"),
    "bits out of range": ('[[node]]\nop = "Conv"\nbits = 9', "entry 1: bits = 9"),
    "an unknown key": ('[[node]]\nop = "Conv"\nbitts = 4', "entry 1: unknown key bitts"),
    "everything in float": ('[[node]]\nname = "*"\nfloat = true', "nothing is left to quantize for tensorrt"),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_configurations(case: str, small: Path, fails: Callable[..., str]) -> None:
    text, said = CONFIGS[case]
    (small.parent / "onnxdfq.toml").write_text(text)
    line = fails("quantize", small, "--recipe", "fast", "--config", small.parent / "onnxdfq.toml")
    assert said in line
    assert files(small.parent) == {"small.onnx", "onnxdfq.toml"}


@pytest.mark.usefixtures("quick")
def test_a_configuration_is_obeyed(small: Path) -> None:
    config, report = small.parent / "onnxdfq.toml", small.parent / "report.json"
    config.write_text('[[node]]\nop = "Conv"\nbits = 4\n[[node]]\nname = "sec*"\nfloat = true\n')
    arguments = ["quantize", small, "--recipe", "fast", "--quiet", "--config", config, "--report", report]
    assert main([str(each) for each in arguments]) == 0
    plan = json.loads(report.read_text())["targets"]["tensorrt"]["plan"]
    weights = {name: entry["bits"] for name, entry in plan["tensors"].items() if name not in plan["readers"]}
    assert weights == {"w1": 4, "w3": 4, "w4": 8}
    assert {"node": "second", "rule": "placement", "reason": "the configuration keeps it in float (entry 2)"} in plan[
        "skips"
    ]


@pytest.mark.usefixtures("quick")
def test_a_plan_and_a_configuration_might_contradict_each_other(small: Path, fails: Callable[..., str]) -> None:
    config, plan = small.parent / "onnxdfq.toml", small.parent / "plan.json"
    config.write_text('[[node]]\nname = "last"\nfloat = true\n')
    assert main(["quantize", str(small), "--recipe", "fast", "--quiet", "--plan-out", str(plan)]) == 0
    assert "exclude each other" in fails("quantize", small, "--plan", plan, "--config", config)


def test_outputs_that_cannot_be_written(small: Path, fails: Callable[..., str]) -> None:
    quantize = ("quantize", small, "--recipe", "fast")
    both = (*quantize, "--target", "tensorrt", "--target", "ort-cpu")
    blocked = small.parent / "file"
    blocked.write_text("")
    for arguments in ([*quantize, "-o", small], [*quantize, "--report", small], [*quantize, "--plan-out", small],
                      ["retarget", small, "--target", "qnn", "-o", small]):  # fmt: skip
        assert "is the input model" in fails(*arguments)
    for arguments in (
        [*quantize, "-o", blocked / "out.onnx"], [*quantize, "--plan-out", blocked / "plan.json"],
        [*quantize, "--report", blocked / "r.json"], [*both, "-o", blocked], [*both, "--plan-out", blocked],
        ["retarget", small, "--target", "qnn", "-o", blocked / "out.onnx"],
    ):  # fmt: skip
        assert "can't be written" in fails(*arguments)
    assert "is a folder" in fails(*quantize, "--report", small.parent)
    assert files(small.parent) == {"small.onnx", "file"}


def test_two_outputs_with_one_name(small: Path, fails: Callable[..., str]) -> None:
    same, quantize = small.parent / "same", ("quantize", small, "--recipe", "fast")
    for arguments in (["-o", same, "--report", same], ["-o", same, "--plan-out", same],
                      ["--plan-out", same, "--report", same]):  # fmt: skip
        assert "would be written twice" in fails(*quantize, *arguments)
    taken = small.parent / "small.tensorrt.int8.onnx"  # where the model goes by default
    assert "would be written twice" in fails(*quantize, "--report", taken)


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


def test_only_images_that_are_led_need_torch(small: Path) -> None:
    quantized = small.parent / "q.onnx"
    for arguments in (
        ["quantize", small, "--recipe", "fast", "--quiet", "--target", "ort-cpu", "-o", quantized],
        ["inspect", small], ["explain", quantized], ["retarget", quantized, "--target", "qnn"], ["targets"],
    ):  # fmt: skip
        script = "import sys; from onnxdfq.cli import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_inspect_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(DIGITS), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folded"] == found["statistics"] == 17
    assert found["classes"] == 10
    assert found["layers"] == found["targets"]["ort-cpu"]["layers"] == 18
    assert main(["inspect", str(DIGITS)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "17 BatchNormalization statistics and 10 classes" in said
    assert "image [batch, 1, 32, 32]" in said, "which is no markup"


# -- the verbs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "arguments are required: VERB. `onnxdfq --help` lists what is possible"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["quantize"], "arguments are required: model"),
        (["inspect"], "arguments are required: model"),
        (["check"], "arguments are required: model"),
        (["explain"], "arguments are required: model"),
        (["retarget", "a.onnx"], "arguments are required: --target"),
        (["targets", "tensorrt"], "unrecognized arguments: tensorrt"),
        (["targets", "--yaml"], "unrecognized arguments: --yaml"),
        (["retarget", "a.onnx", "--target", "toaster"], "--target toaster is not known. choose from tensorrt, ort-cpu"),
        (["check", "a.onnx", "--target", "toaster"], "--target toaster is not known"),
        (["explain", "a.onnx", "--target", "toaster"], "--target toaster is not known"),
        (["retarget", "a.onnx", "--target", "qnn", "--bits", "9"], "--bits 9 is not supported"),
        (["retarget", "a.onnx", "--target", "qnn", "--bits", "-4"], "--bits: -4 is not a number of bits"),
        (["retarget", "a.onnx", "--target", "qnn", "--float-type", "fp16"], "qnn takes no --float-type float16"),
        (["retarget", "a.onnx", "--target", "qnn", "--ranges", "nowhere.json"], "nowhere.json does not exist"),
    ],
    ids=" ".join,
)
def test_wrong_verbs_and_arguments(arguments: list[str], said: str, fails: Callable[..., str]) -> None:
    assert said in fails(*arguments)


def test_targets_are_listed_with_what_they_want(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    printed = capsys.readouterr().out
    for target in TARGETS.values():
        assert f"{target.name}: {target.runtime}\n" in printed
        assert target.advice in " ".join(printed.split())
    listed = " ".join(printed.split())
    assert "activations int8, one scale, zero-point 0; where an integer kernel gains by it" in listed
    assert "activations uint8 or uint16, one scale, any zero-point; wherever an operator below touches them" in listed
    assert "weights int8 of up to 7 bits" in listed
    assert "up to 2 bits packed, from opset 25" in listed
    assert "(one in all for ConvTranspose)" in listed
    assert "weighted Conv, Gemm, MatMul elementwise Add, Mul concat Concat" in listed


def test_targets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == list(TARGETS)
    for name, target in TARGETS.items():
        assert set(found[name]) == set(vars(target))
        assert found[name]["rules"] == dict(target.rules)
        assert found[name]["opsets"] == list(target.opsets)
        assert found[name]["per_tensor_weights"] == sorted(target.per_tensor_weights)
        assert found[name]["reader"]["code_types"] == sorted(target.reader.code_types)


@pytest.mark.usefixtures("quick")
def test_check_ends_with_a_code_of_its_own(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantized = small.parent / "small.ort-cpu.int8.onnx"
    assert main(["quantize", str(small), "--recipe", "fast", "--quiet", "--target", "ort-cpu"]) == 0
    assert main(["check", str(quantized), "--target", "ort-cpu"]) == 0
    assert main(["check", str(quantized), "--target", "tensorrt"]) == 3
    capsys.readouterr()
    assert main(["check", str(quantized), "--target", "tensorrt", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["counts"]["error"] > 0


@pytest.mark.usefixtures("quick")
def test_whatever_slips_through_is_one_line_too(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(ranges, "observe", broken)
    assert main(["quantize", str(small), "--recipe", "fast", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("onnxdfq: ZeroDivisionError in test_cli.py:")
    assert line.endswith("first line. This is a bug: please report it")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
     RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
     RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 1")],
    ids=["Python", "torch", "CUDA", "ONNX Runtime"],
)  # fmt: skip
def test_no_memory_is_no_bug(
    error: Exception, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(ranges, "observe", greedy)
    assert main(["quantize", str(small), "--recipe", "fast", "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("onnxdfq: out of memory. Use a smaller --input-shape")
