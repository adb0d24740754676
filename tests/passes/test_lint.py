"""The linter: each rule finds what breaks it and leaves a sound model alone; what it looks at, and what it returns."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from passes.lint import RULES, SEVERITIES, Finding, lint
from passes.targets import TARGETS
from tests.passes.lint_cases import CASES
from tests.passes.qdq_models import CONV, FUSED, S8, codes, model, pair

TENSORRT = TARGETS["tensorrt"]


def broken(case):
    constants = case.constants | case.spoilt
    return model(case.broken, shape=case.shape, opset=case.opset, domains=case.domains, **constants)


def sound(case):
    opset = case.opset if case.sound_opset is None else case.sound_opset
    return model(case.sound, shape=case.shape, opset=opset, domains=case.domains, **case.constants)


def seen(findings):
    """What a test compares: rule and the tensor that the node writes."""
    return [(finding.rule, finding.node.rpartition("-> ")[2]) for finding in findings]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.target}-{case.severity}")
def test_a_rule_finds_what_breaks_it_and_nothing_in_a_sound_model(case):
    target = TARGETS[case.target]
    findings = [each for each in lint(broken(case), target) if each.rule == case.rule]
    assert (case.severity, case.at) in [(each.severity, each.node.rpartition("-> ")[2]) for each in findings]
    assert not [each for each in lint(sound(case), target) if (each.rule, each.severity) == (case.rule, case.severity)]


def test_every_rule_is_broken_by_some_case_and_documented():
    assert {case.rule for case in CASES} == set(RULES)
    assert all(rule.__doc__ for rule in RULES.values())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_findings_are_lines_under_the_id_of_their_rule_errors_first(target):
    for case in CASES:
        findings = lint(broken(case), target)
        for finding in findings:
            assert finding.rule in RULES
            assert finding.message
            assert finding.fix
            assert "\n" not in finding.message + finding.fix
        order = [SEVERITIES.index(finding.severity) for finding in findings]
        assert order == sorted(order)


def test_a_finding_is_made_by_the_rule_that_it_names():
    from passes.lint.view import View

    for case in CASES:
        for name, rule in RULES.items():
            for view in View(broken(case)).walk():
                assert {finding.rule for finding in rule(view, TARGETS[case.target])} <= {name}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_said_of_a_target_fits_together(target):
    assert {target.activation, "int8"} <= target.reader.code_types
    assert target.reader.assumed_type in target.reader.code_types
    assert all(onnx.defs.has(op) for op in target.reader.kernels | target.reader.climbs)
    assert not target.reader.kernels & set(target.rules)


def test_sound_models_have_no_findings():
    assert lint(model(CONV), TENSORRT) == []
    assert lint(model("wd = DQ <axis = 0> (w, sw, zw) y = Conv (x, wd)"), TARGETS["ort-cuda"]) == []
    packed = FUSED.replace("wd =", "c = Cast <to = 3> (w4) wd =").replace("(w, sw", "(c, sw")
    for name in ("ort-cpu", "ort-cpu-avx2", "openvino"):
        assert lint(model(FUSED), TARGETS[name]) == []
        assert lint(model(packed), TARGETS[name]) == []


def test_nodes_are_called_by_their_name():
    made = model(CONV.replace("<axis = 0>", ""))
    made.graph.node[2].name = "my weights"
    assert [(finding.rule, finding.node) for finding in lint(made, TENSORRT)] == [("axis-missing", "my weights")]


def test_a_pair_is_reported_once():
    assert seen(lint(model(pair("x", "y", zero="i"), i=np.int8(1)), TENSORRT)) == [("zero-point", "y_q")]


def test_scales_may_be_constant_nodes_and_stand_behind_identity():
    body = f"h = Constant <value = float {{0.0}}> () g = Identity (h) {pair('x', 'y', 'g')}"
    assert seen(lint(model(body), TARGETS["ort-cpu"])) == [("scale-positive", "y_q"), ("scale-positive", "y")]
    body = f"h = Constant <value_floats = [0.0]> () {pair('x', 'y', 'h')}"
    assert seen(lint(model(body), TARGETS["ort-cpu"])) == [("scale-positive", "y_q"), ("scale-positive", "y")]


def test_float_weights_behind_a_quantizer_are_weights():
    body = f"{S8} wq = Q <axis = 1> (wf, sw, zw) wd = DQ <axis = 1> (wq, sw, zw) y = Conv (xd, wd)"
    assert seen(lint(model(body, wf=np.ones((16, 16, 1, 1), np.float32)), TENSORRT)) == [("axis-wrong", "wd")]


def test_bodies_of_nodes_are_linted_with_what_they_read_from_outside():
    made = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,16,6,6] x, bool c) => (float[A,B,C,D] y) {
            xq = QuantizeLinear (x, s, i)  xd = DequantizeLinear (xq, s, i)
            y = If (c) <
                then_branch = t () => (float[A,B,C,D] a) { wd = DequantizeLinear (w, sw, zw)  a = Conv (xd, wd) },
                else_branch = e () => (float[A,B,C,D] b) { b = Identity (xd) }
            >
        }"""
    )
    constants = {"s": np.float32(1), "i": np.int8(0), "w": codes(16, 16, 1, 1), "zw": np.zeros(16, np.int8)}
    for name, value in (constants | {"sw": np.ones(16, np.float32)}).items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(made)
    assert seen(lint(made, TENSORRT)) == [("axis-missing", "wd")]


def test_functions_of_the_model_are_no_custom_operators():
    made = model(f"a = own.Twice (x) {pair('a', 'y', zero='i')}", domains=', "own" : 1')
    assert seen(lint(made, TENSORRT)) == [("custom-op", "a")]
    twice = helper.make_node("Add", ["p", "p"], ["q"])
    made.functions.append(helper.make_function("own", "Twice", ["p"], ["q"], [twice], [helper.make_opsetid("", 21)]))
    assert lint(made, TENSORRT) == []


def test_linting_only_looks_at_the_model():
    made = model(FUSED)
    before = made.SerializeToString()
    for target in TARGETS.values():
        lint(made, target)
    assert made.SerializeToString() == before


def test_weights_in_another_file_are_not_loaded_but_scales_are(tmp_path):
    made = model(CONV, sw=np.zeros(16, np.float32))
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    read = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert seen(lint(read, TENSORRT, tmp_path)) == [("scale-positive", "wd")]
    assert not any(tensor.HasField("raw_data") for tensor in read.graph.initializer)


def test_a_finding_cannot_be_changed():
    with pytest.raises(AttributeError):
        Finding("error", "opset", "", "too new", "convert it").rule = "other"
