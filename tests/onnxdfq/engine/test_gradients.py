"""Gradients of every operator against finite differences, in double precision. The list of what is checked:

python -m pytest tests/onnxdfq/engine/test_gradients.py -v
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx

from onnxdfq.engine.lower import lower
from onnxdfq.engine.operators.registry import catalogue, resolve
from tests.onnxdfq.engine.gradient_cases import CASES
from tests.onnxdfq.engine.gradient_nodes import Case, case, within

# Operators without a gradient, or with none that finite differences would find.
_STEPS = "its output is constant between jumps: a gradient of zero"
_TRUTH = "its output is a truth value"
_BITS = "it computes with bits"
_SHAPE = "its output depends on the shape of its input alone"
ROUNDS = "it rounds: the gradient goes straight through, and is checked against that of the formula without rounding"
NOT_DIFFERENTIABLE = {
    **dict.fromkeys(["Ceil", "Floor", "Hardmax", "Round", "Sign"], _STEPS),
    **dict.fromkeys(
        ["And", "Or", "Xor", "Not", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsInf", "IsNaN"],
        _TRUTH,
    ),
    **dict.fromkeys(["BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"], _BITS),
    **dict.fromkeys(["EyeLike", "Shape", "Size"], _SHAPE),
    **dict.fromkeys(["DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QuantizeLinear"], ROUNDS),
    "com.microsoft::QuantizeLinear": ROUNDS,
    **dict.fromkeys(["ArgMax", "ArgMin", "NonMaxSuppression", "NonZero"], "its output is positions"),
    "Constant": "it has no input",
    **dict.fromkeys(["BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow"], "its input is a size"),
    "Range": "its inputs decide how many elements there are, and are read as numbers",
}

FLOAT8 = onnx.TensorProto.FLOAT8E4M3FN


def quantized(x: Tensor, scale: Tensor, zero: Tensor | float = 0, low: int = -128, high: int = 127) -> Tensor:
    return (x / scale + zero).clamp(low, high)


def dynamically(x: Tensor) -> tuple[Tensor, ...]:
    scale = (x.max() - x.min()) / 255
    return (x - x.min()) / scale, scale, -x.min() / scale


def product(*given: Tensor) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = given
    total = ((a - a_zero) * a_scale) @ ((b - b_zero) * b_scale)
    return quantized(total, y_scale, y_zero, 0, 255)


def convolved(*given: Tensor) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = given
    scales = w_scale[:, None, None, None]
    total = torch.conv2d((x - x_zero) * x_scale, (w - w_zero) * scales, bias * x_scale * w_scale, padding=1)
    return quantized(total, y_scale, y_zero, 0, 255)


IMAGE, SCALE = within(-20, 20, 2, 4), within(0.1, 0.2)
# Operators that round, and what they compute but for that.
ROUNDING = [
    (case("QuantizeLinear-13", IMAGE, SCALE, np.int8(3)), quantized),
    (case("QuantizeLinear-10", IMAGE, SCALE), lambda x, scale: quantized(x, scale, 0, 0, 255)),
    (
        case("QuantizeLinear-13", IMAGE, within(0.1, 0.2, 2), np.array([3, -7], np.int8), axis=0),
        lambda x, scale, zero: quantized(x, scale[:, None], zero[:, None]),
    ),
    (
        case("QuantizeLinear-21", IMAGE, within(0.1, 0.2, 2, 2), axis=1, block_size=2, output_dtype=3),
        lambda x, scale: quantized(x, scale.repeat_interleave(2, 1)),
    ),
    (
        case("QuantizeLinear-23", IMAGE, within(0.03, 0.04), output_dtype=FLOAT8),
        lambda x, scale: quantized(x, scale, 0, -448, 448),
    ),
    (case("com.microsoft::QuantizeLinear-1", IMAGE, SCALE, np.int16(3)), lambda x, scale, zero: x / scale + zero),
    (case("DynamicQuantizeLinear-11", within(-1, 2, 2, 3), outputs=3), dynamically),
    (
        case(
            "QLinearMatMul-21",
            *(within(0, 255, 2, 3), within(0.01, 0.02), np.uint8(120)),
            *(within(-128, 127, 3, 2), within(0.01, 0.02, 2), np.array([3, -2], np.int8)),
            *(within(0.02, 0.04), np.uint8(130)),
        ),
        product,
    ),
    (
        case(
            "QLinearConv-10",
            *(within(0, 255, 1, 2, 2, 2), within(0.01, 0.02), np.uint8(120)),
            *(within(-128, 127, 2, 2, 3, 3), within(0.01, 0.02, 2), np.int8(0)),
            *(within(0.04, 0.08), np.uint8(130), np.array([300, -500], np.int32)),
            pads=[1, 1, 1, 1],
        ),
        convolved,
    ),
]


def real_outputs(gm: fx.GraphModule, parameters: dict[str, Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    outputs = torch.func.functional_call(gm, parameters, tuple(inputs))
    return tuple(output for output in outputs if output.is_floating_point())


def check_finite_differences(gm: fx.GraphModule, inputs: list[Tensor], *, along_one_direction: bool = False) -> None:
    """Compare the gradients of all inputs that require one, and of all parameters."""
    parameters: dict[str, Tensor] = dict(gm.named_parameters())
    assert any(output.requires_grad for output in real_outputs(gm, parameters, inputs))
    checked = [i for i, value in enumerate(inputs) if value.requires_grad]

    def of_checked(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(checked, values, strict=False))
        trained = dict(zip(parameters, values[len(checked) :], strict=True))
        return real_outputs(gm, trained, [given.get(i, value) for i, value in enumerate(inputs)])

    values = (*(inputs[i] for i in checked), *parameters.values())
    assert torch.autograd.gradcheck(of_checked, values, fast_mode=along_one_direction)


@pytest.mark.parametrize("node", sorted(CASES, key=str), ids=str)
def test_gradient_agrees_with_finite_differences(node: Case) -> None:
    names = [*node.arrays()]
    check_finite_differences(lower(node.model(names)), node.tensors(names))


@pytest.mark.parametrize("node", sorted((node for node in CASES if len(node.inputs) > 1), key=str), ids=str)
def test_gradient_of_parameters_agrees_with_finite_differences(node: Case) -> None:
    """All inputs but one are initializers; what is not structure, nor declared to be frozen, is a parameter."""
    first, *others = node.reals()
    entry = resolve(node.node(), {node.domain: node.opset})
    fixed = {f"in{i}" for i, name in enumerate(entry.inputs) if name in entry.host | entry.frozen}
    gm = lower(node.model([first]))
    assert set(dict(gm.named_parameters())) == set(others) - fixed
    check_finite_differences(gm, node.tensors([first]), along_one_direction=True)


@pytest.mark.parametrize(("node", "formula"), ROUNDING, ids=[str(node) for node, _ in ROUNDING])
def test_gradient_passes_straight_through_rounding(
    node: Case, formula: Callable[..., Tensor | tuple[Tensor, ...]]
) -> None:
    names = [*node.arrays()]
    inputs, copies = node.tensors(names), node.tensors(names)
    outputs, expected = lower(node.model(names))(*inputs), formula(*copies)
    expected = expected if isinstance(expected, tuple) else (expected,)
    weights = [torch.linspace(0.3, 1, output.numel()).to(output).reshape(output.shape) for output in expected]
    torch.autograd.backward(outputs, weights)
    torch.autograd.backward(expected, weights)
    # QLinearConv and QLinearMatMul scale in single precision.
    for given, copy in zip(inputs, copies, strict=True):
        torch.testing.assert_close(given.grad, copy.grad, rtol=1e-5, atol=1e-5)


def test_every_operator_is_in_one_of_the_two_lists() -> None:
    covered = {node.title for node in CASES}
    assert not covered & NOT_DIFFERENTIABLE.keys()
    assert covered | NOT_DIFFERENTIABLE.keys() == {titled(*key) for key in catalogue()}


def test_every_function_of_a_differentiable_operator_is_checked() -> None:
    entries = [resolve(node.node(), {node.domain: node.opset}) for node in CASES]
    assert {(titled(entry.domain, entry.name), entry.function) for entry in entries} == {
        (titled(*key), entry.function)
        for key, ranges in catalogue().items()
        for entry in ranges
        if titled(*key) not in NOT_DIFFERENTIABLE
    }


def test_every_operator_that_rounds_is_checked() -> None:
    assert {node.title for node, _ in ROUNDING} == {
        title for title, reason in NOT_DIFFERENTIABLE.items() if reason == ROUNDS
    }


def titled(domain: str, name: str) -> str:
    return f"{domain}::{name}" if domain else name
