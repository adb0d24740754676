"""`onnxdfq check` on files: ours, broken ones, and what it can't read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from rich.console import Console

from onnxdfq.api import quantize
from onnxdfq.check import check, exit_code, read_as_it_is, summary
from onnxdfq.errors import OnnxdfqError
from onnxdfq.report.findings import show_findings
from passes.lint import Finding
from passes.targets import TARGETS

RNG = np.random.default_rng(6)


def floats(*shape):
    return RNG.normal(0, 0.2, shape).astype(np.float32)


def write(path, text, opset=21, domains="", **constants):
    heading = f'<ir_version: 10, opset_import: ["" : {opset}{domains}]>'
    model = parser.parse_model(f"{heading}\n{text}")
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, path)
    return path


@pytest.fixture
def classifier(tmp_path):
    """A float model with what targets treat differently: a residual Add, ConvTranspose, Concat, SiLU, a Gemm."""
    return write(
        tmp_path / "float.onnx",
        """g (float[N,3,16,16] x) => (float[N,4] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu (a)
            c = Conv <pads = [1,1,1,1]> (r, w2, b1)  d = Add (c, r)  e = Relu (d)
            u = ConvTranspose <strides = [2,2], kernel_shape = [2,2]> (e, w3)
            p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (u)
            q = Concat <axis = 1> (p, e)  h = Conv (q, w4)  s = Sigmoid (h)  m = Mul (h, s)
            v = GlobalAveragePool (m)  f = Flatten (v)  y = Gemm <transB = 1> (f, w5, b5)
        }""",
        opset=17, w1=floats(16, 3, 3, 3), b1=floats(16), w2=floats(16, 16, 3, 3), w3=floats(16, 16, 2, 2),
        w4=floats(16, 32, 1, 1), w5=floats(4, 16), b5=floats(4),
    )  # fmt: skip


def test_our_own_files_have_no_errors_for_their_target(classifier, tmp_path):
    done = quantize(classifier, target=tuple(TARGETS), recipe="fast", output=tmp_path)
    for name in TARGETS:
        findings = check(Path(done.report.targets[name].file), name)
        assert [finding for finding in findings if finding.severity == "error"] == [], name
        assert exit_code(findings) == 0


SCALES = {"s": np.float32(0.02), "i": np.int8(0), "n": np.int8(3)}
PAIR = "g (float[1,4] x) => (float[1,4] y) {{ q = QuantizeLinear (x, s, {zero})  y = DequantizeLinear (q, s, {zero}) }}"


def test_the_exit_code_follows_the_severity(tmp_path):
    sound = write(tmp_path / "sound.onnx", PAIR.format(zero="i"), **SCALES)
    assert exit_code(check(sound, "tensorrt")) == 0
    wrong = check(write(tmp_path / "wrong.onnx", PAIR.format(zero="n"), **SCALES), "tensorrt")
    assert [finding.rule for finding in wrong] == ["zero-point"]
    assert exit_code(wrong) == 3
    slower = check(sound, "ort-cpu")
    assert {finding.severity for finding in slower} == {"warning"}
    assert (exit_code(slower), exit_code(slower, strict=True)) == (0, 3)


def test_a_summary_is_json(tmp_path):
    path = write(tmp_path / "wrong.onnx", PAIR.format(zero="n"), **SCALES)
    found = json.loads(json.dumps(summary(path, "tensorrt", check(path, "tensorrt"))))
    assert found["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert found["findings"][0]["rule"] == "zero-point"
    assert set(found["findings"][0]) == {"severity", "rule", "node", "message", "fix"}


def test_alike_findings_are_shown_as_one_entry(tmp_path, capsys):
    findings = [Finding("error", "zero-point", f"[node {k}]", f"message {k}", "the remedy") for k in range(5)]
    findings.append(Finding("note", "opset", "", "the whole model", "nothing"))
    show_findings(tmp_path / "m.onnx", TARGETS["tensorrt"], findings, Console(width=110, highlight=False))
    text = capsys.readouterr().out
    assert "5 errors, 1 note" in text
    assert "[node 0], [node 1], [node 2] and 2 more" in text  # brackets are no markup
    assert "message 0" in text
    assert text.count("the remedy") == 1
    show_findings(tmp_path / "m.onnx", TARGETS["tensorrt"], [], Console(width=110, highlight=False))
    assert "nothing to mend" in capsys.readouterr().out


def test_files_that_others_refuse_are_linted(tmp_path):
    newer = write(tmp_path / "newer.onnx", PAIR.format(zero="i"), opset=99, **SCALES)
    assert [finding.rule for finding in check(newer, "tensorrt")] == ["opset"]
    foreign = "g (float[1,4] x) => (float[1,4] y) { y = tool.FakeQuant (x, s) }"
    path = write(tmp_path / "foreign.onnx", foreign, domains=', "tool" : 1', s=np.float32(1))
    assert "custom-op" in [finding.rule for finding in check(path, "ort-cpu")]
    unknown = write(tmp_path / "unknown.onnx", "g (float[1,4] x) => (float[1,4] y) { y = FakeQuant (x) }")
    assert "custom-op" in [finding.rule for finding in check(unknown, "openvino")]


def test_a_model_that_breaks_onnxs_rules_is_a_finding(tmp_path):
    path = write(tmp_path / "invalid.onnx", PAIR.format(zero="i"), **SCALES)
    model = onnx.load(path)
    model.graph.node[1].input[0] = "nowhere"
    onnx.save(model, path)
    findings = check(path, "tensorrt")
    assert [(finding.rule, finding.severity) for finding in findings] == [("invalid-onnx", "error")]
    assert "nowhere" in findings[0].message


def test_functions_of_the_model_are_looked_into(tmp_path):
    path = write(
        tmp_path / "functions.onnx", "g (float[1,4] x) => (float[1,4] y) { y = own.Fake (x, s, n) }",
        domains=', "own" : 1', s=np.float32(0.02), n=np.int8(3),
    )  # fmt: skip
    model = onnx.load(path)
    nodes = [
        helper.make_node("QuantizeLinear", ["a", "b", "c"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "b", "c"], ["r"]),
    ]
    opsets = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("own", "Fake", ["a", "b", "c"], ["r"], nodes, opsets))
    onnx.save(model, path)
    assert [finding.rule for finding in check(path, "tensorrt")] == ["zero-point"]


def external(tmp_path):
    path = write(tmp_path / "m.onnx", PAIR.format(zero="i"), **SCALES)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def test_weights_in_another_file_stay_there(tmp_path):
    path = external(tmp_path)
    assert check(path, "tensorrt") == []
    assert not any(tensor.HasField("raw_data") for tensor in read_as_it_is(path).graph.initializer)


def failure(path, target="tensorrt"):
    with pytest.raises(OnnxdfqError) as caught:
        check(path, target)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


def test_what_cannot_be_read_is_one_line(tmp_path):
    sound = write(tmp_path / "sound.onnx", PAIR.format(zero="i"), **SCALES)
    assert "is not known" in failure(sound, "abacus")
    assert "does not exist" in failure(tmp_path / "none.onnx")
    assert "is a folder" in failure(tmp_path)
    (tmp_path / "text.onnx").write_text("no model at all")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "half.onnx").write_bytes(sound.read_bytes()[: sound.stat().st_size // 2])
    for name in ("text", "empty", "half"):
        message = failure(tmp_path / f"{name}.onnx")
        assert "is not an ONNX model" in message or "holds no ONNX graph" in message


def test_missing_weights_are_one_line(tmp_path):
    path = external(tmp_path)
    data = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").write_bytes(data[:1])
    assert "m.data is too short" in failure(path)
    (tmp_path / "m.data").unlink()
    assert "m.data does not exist" in failure(path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../m.data"
    path.write_bytes(model.SerializeToString())
    assert "outside of its folder" in failure(path)
