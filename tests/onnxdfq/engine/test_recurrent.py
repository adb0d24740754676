"""LSTM, GRU and RNN against ONNX Runtime, in every direction, with every optional input and activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from onnxdfq.engine.lower import lower
from onnxdfq.errors import OnnxdfqError

random = np.random.default_rng(0)
TIME, BATCH, SIZE, HIDDEN = 5, 3, 4, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
FUNCTIONS = {"LSTM": 3, "GRU": 2, "RNN": 1}


def f(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def layer_inputs(op: str, ways: int, *, lengths: bool = False, state: bool = False) -> list[np.ndarray | None]:
    """x, w, r, b, sequence_lens, and the initial states, of which the last two may be missing."""
    gates = GATES[op] * HIDDEN
    # Half of the normal size: with activations that have no bound some layers would overflow in five steps.
    inputs = [f(TIME, BATCH, SIZE) / 2, f(ways, gates, SIZE) / 2, f(ways, gates, HIDDEN) / 2, f(ways, 2 * gates) / 2]
    optional = [np.array([5, 1, 3], np.int32) if lengths else None]
    optional += [f(ways, BATCH, HIDDEN) if state else None for _ in range(STATES[op])]
    return [*inputs, *optional]


@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("state", [False, True], ids=["zero", "initial"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_layer_agrees_with_onnxruntime(
    op: str, direction: str, state: bool, lengths: bool, node_agrees: Callable[..., None]
) -> None:
    inputs = layer_inputs(op, 2 if direction == "bidirectional" else 1, lengths=lengths, state=state)
    node_agrees(op, *inputs, opset=14, outputs=STATES[op] + 1, hidden_size=HIDDEN, direction=direction)


@pytest.mark.parametrize("opset", [7, 22])
@pytest.mark.parametrize("op", GATES)
def test_layer_without_biases(op: str, opset: int, node_agrees: Callable[..., None]) -> None:
    node_agrees(op, *layer_inputs(op, 1)[:3], opset=opset, outputs=2, hidden_size=HIDDEN)


@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_gru_that_resets_after_the_product(direction: str, lengths: bool, node_agrees: Callable[..., None]) -> None:
    inputs = layer_inputs("GRU", 2 if direction == "bidirectional" else 1, lengths=lengths, state=True)
    node_agrees("GRU", *inputs, opset=14, outputs=2, hidden_size=HIDDEN, direction=direction, linear_before_reset=1)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("attributes", [{}, {"clip": 0.5}, {"input_forget": 1}], ids=str)
def test_lstm_with_peepholes(direction: str, attributes: dict[str, Any], node_agrees: Callable[..., None]) -> None:
    ways = 2 if direction == "bidirectional" else 1
    inputs = [*layer_inputs("LSTM", ways, state=True), f(ways, 3 * HIDDEN)]
    node_agrees("LSTM", *inputs, opset=14, outputs=3, hidden_size=HIDDEN, direction=direction, **attributes)


@pytest.mark.parametrize("reset", [0, 1])
def test_gru_with_clip(reset: int, node_agrees: Callable[..., None]) -> None:
    inputs = layer_inputs("GRU", 1, state=True)
    node_agrees("GRU", *inputs, opset=14, outputs=2, hidden_size=HIDDEN, clip=0.5, linear_before_reset=reset)


def test_rnn_with_clip(node_agrees: Callable[..., None]) -> None:
    node_agrees("RNN", *layer_inputs("RNN", 1, state=True), opset=14, outputs=2, hidden_size=HIDDEN, clip=0.5)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Relu", {}),
        ("Softsign", {}),
        ("Softplus", {}),
        ("LeakyRelu", {}),
        ("LeakyRelu", {"activation_alpha": [0.3, 0.2, 0.1]}),
        ("ThresholdedRelu", {"activation_alpha": [0.3, 0.2, 0.1]}),
        ("Elu", {}),
        ("Elu", {"activation_alpha": [0.3, 0.2, 0.1]}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"activation_alpha": [0.3, 0.2, 0.1], "activation_beta": [0.4, 0.5, 0.6]}),
        ("Affine", {"activation_alpha": [0.3, 0.2, 0.1], "activation_beta": [0.4, 0.5, 0.6]}),
        ("ScaledTanh", {"activation_alpha": [0.3, 0.2, 0.1], "activation_beta": [0.4, 0.5, 0.6]}),
    ],
    ids=str,
)
def test_activation(op: str, name: str, parameters: dict[str, Any], node_agrees: Callable[..., None]) -> None:
    count = FUNCTIONS[op]
    attributes = {key: values[:count] for key, values in parameters.items()}
    node_agrees(
        op, *layer_inputs(op, 1), opset=14, outputs=2, hidden_size=HIDDEN, activations=[name] * count, **attributes
    )


def test_parameters_go_to_the_activations_that_take_them(node_agrees: Callable[..., None]) -> None:
    node_agrees(
        "LSTM",
        *layer_inputs("LSTM", 2),
        opset=14,
        outputs=3,
        hidden_size=HIDDEN,
        direction="bidirectional",
        activations=["HardSigmoid", "Tanh", "LeakyRelu", "Sigmoid", "ScaledTanh", "Tanh"],
        activation_alpha=[0.3, 0.1, 0.8],
        activation_beta=[0.4, 0.7],
    )


def layer(op: str, inputs: Sequence[torch.Tensor | None], **attributes: Any) -> torch.nn.Module:
    """One layer; all its inputs are inputs of the model, all its outputs are returned."""
    given = {f"in{i}": value for i, value in enumerate(inputs) if value is not None}
    names = [f"in{i}" if value is not None else "" for i, value in enumerate(inputs)]
    outputs = [f"out{i}" for i in range(STATES[op] + 1)]
    types = {torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE, torch.int32: TensorProto.INT32}
    graph = helper.make_graph(
        [helper.make_node(op, names, outputs, hidden_size=HIDDEN, **attributes)],
        "graph",
        [helper.make_tensor_value_info(name, types[value.dtype], value.shape) for name, value in given.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    return lower(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)]))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_batch_first_is_the_same_transposed(op: str, direction: str) -> None:
    """ONNX Runtime has no layout 1."""
    inputs = layer_inputs(op, 2 if direction == "bidirectional" else 1, lengths=True, state=True)
    plain = [torch.from_numpy(array) for array in inputs if array is not None]
    swapped = [value.transpose(0, 1) if i == 0 or i > 4 else value for i, value in enumerate(plain)]
    every, *last = layer(op, plain, direction=direction)(*plain)
    every_swapped, *last_swapped = layer(op, swapped, direction=direction, layout=1)(*swapped)
    torch.testing.assert_close(every_swapped, every.permute(2, 0, 1, 3))
    torch.testing.assert_close(last_swapped, [state.transpose(0, 1) for state in last])


@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize(
    ("op", "attributes"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})], ids=str
)
def test_gradients_agree_with_finite_differences(op: str, attributes: dict[str, Any], lengths: bool) -> None:
    inputs = layer_inputs(op, 2, lengths=lengths, state=True) + ([f(2, 3 * HIDDEN)] if op == "LSTM" else [])
    values = [None if array is None else torch.from_numpy(array) for array in inputs]
    values = [v.double().requires_grad_() if v is not None and v.is_floating_point() else v for v in values]
    module = layer(op, values, direction="bidirectional", **attributes)
    assert torch.autograd.gradcheck(module, [value for value in values if value is not None])


def test_an_unknown_activation_is_an_error() -> None:
    inputs = [torch.from_numpy(array) for array in layer_inputs("RNN", 1)[:4] if array is not None]
    with pytest.raises(OnnxdfqError, match="activation Gelu"):
        layer("RNN", inputs, activations=["Gelu"])(*inputs)
