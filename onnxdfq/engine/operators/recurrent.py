"""LSTM, GRU and RNN: a loop over time, with all gates of a step in one matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator
from onnxdfq.errors import OnnxdfqError

State = tuple[Tensor, ...]  # each [N, H]; the hidden state comes first
Cell = Callable[[Tensor, State], State]  # what the input adds to the gates of a step [N, gates * H], state -> state
Function = Callable[[Tensor], Tensor]

# Each function with the defaults of the parameters that it takes: alpha, or alpha and beta.
_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "relu": (F.relu, ()),
    "tanh": (torch.tanh, ()),
    "sigmoid": (torch.sigmoid, ()),
    "softsign": (F.softsign, ()),
    "softplus": (F.softplus, ()),
    "leakyrelu": (F.leaky_relu, (0.01,)),
    "thresholdedrelu": (lambda x, alpha: torch.where(x >= alpha, x, 0.0), (1.0,)),
    "elu": (F.elu, (1.0,)),
    "affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "scaledtanh": (lambda x, alpha, beta: alpha * torch.tanh(beta * x), (1.0, 1.0)),
    "hardsigmoid": (lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1), (0.2, 0.5)),
}


@operator("LSTM", since=7)
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float | None = None,
    direction: Literal["forward", "reverse", "bidirectional"] = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: Literal[0, 1] = 0,
    outputs: int,
) -> tuple[Tensor, ...]:
    """x [T, N, I], w [D, 4 * H, I], r [D, 4 * H, H], b [D, 8 * H], p [D, 3 * H] -> [T, D, N, H], [D, N, H] twice.

    Gates in the order i, o, f, c; D is 2 if bidirectional. With layout 1 N comes first in x and in all states. As in
    ONNX Runtime, ``clip`` bounds the gates before their activations, but not the memory before h.
    A sequence of length 0 keeps its initial state, for which ONNX Runtime returns 0.
    """
    names = activations or ["Sigmoid", "Tanh", "Tanh"] * len(w)
    functions = _activations(names, activation_alpha, activation_beta)
    bound = _bound(clip)

    def cell(way: int) -> Cell:
        f, g, h = functions[3 * way : 3 * way + 3]
        recurrence = r[way].T
        peepholes = None if p is None else p[way].chunk(3)

        def step(gates: Tensor, state: State) -> State:
            hidden, memory = state
            i, o, forget, candidate = (gates + hidden @ recurrence).chunk(4, -1)
            if peepholes is not None:
                i, forget = i + peepholes[0] * memory, forget + peepholes[2] * memory
            i = f(bound(i))
            memory = (1 - i if input_forget else f(bound(forget))) * memory + i * g(bound(candidate))
            if peepholes is not None:
                o = o + peepholes[1] * memory
            return f(bound(o)) * h(memory), memory

        return step

    biases = None if b is None else torch.add(*b.chunk(2, -1))
    return _recur(x, w, biases, sequence_lens, (initial_h, initial_c), cell, r.shape[-1], direction, layout)[:outputs]


@operator("GRU", since=7)
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float | None = None,
    direction: Literal["forward", "reverse", "bidirectional"] = "forward",
    hidden_size: int | None = None,
    layout: Literal[0, 1] = 0,
    linear_before_reset: int = 0,
    outputs: int,
) -> tuple[Tensor, ...]:
    """x [T, N, I], w [D, 3 * H, I], r [D, 3 * H, H], b [D, 6 * H] -> [T, D, N, H], [D, N, H].

    Gates in the order z, r, h; D is 2 if bidirectional. With layout 1 N comes first in x and in all states.
    """
    functions = _activations(activations or ["Sigmoid", "Tanh"] * len(w), activation_alpha, activation_beta)
    bound = _bound(clip)
    size = r.shape[-1]
    of_input, of_state = (w.new_zeros((len(w), 6 * size)) if b is None else b).chunk(2, -1)

    def cell(way: int) -> Cell:
        f, g = functions[2 * way : 2 * way + 2]
        recurrence, bias = r[way], of_state[way]

        def reset_after(gates: Tensor, state: State) -> State:
            (hidden,) = state
            z, reset, candidate = gates.chunk(3, -1)
            to_z, to_reset, to_candidate = F.linear(hidden, recurrence, bias).chunk(3, -1)
            z, reset = f(bound(z + to_z)), f(bound(reset + to_reset))
            candidate = g(bound(candidate + reset * to_candidate))
            return ((1 - z) * candidate + z * hidden,)

        def reset_before(gates: Tensor, state: State) -> State:
            (hidden,) = state
            both, candidate = gates.split([2 * size, size], -1)
            z, reset = f(bound(both + hidden @ recurrence[: 2 * size].T)).chunk(2, -1)
            candidate = g(bound(candidate + (reset * hidden) @ recurrence[2 * size :].T))
            return ((1 - z) * candidate + z * hidden,)

        return reset_after if linear_before_reset else reset_before

    # All biases may be added to the input, except where the one of the hidden gate is inside of the reset.
    biases = of_input if linear_before_reset else of_input + of_state
    return _recur(x, w, biases, sequence_lens, (initial_h,), cell, size, direction, layout)[:outputs]


@operator("RNN", since=7)
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = ("Tanh", "Tanh"),
    clip: float | None = None,
    direction: Literal["forward", "reverse", "bidirectional"] = "forward",
    hidden_size: int | None = None,
    layout: Literal[0, 1] = 0,
    outputs: int,
) -> tuple[Tensor, ...]:
    """x [T, N, I], w [D, H, I], r [D, H, H], b [D, 2 * H] -> [T, D, N, H], [D, N, H]; else as LSTM."""
    functions = _activations(activations, activation_alpha, activation_beta)
    bound = _bound(clip)

    def cell(way: int) -> Cell:
        f, recurrence = functions[way], r[way].T
        return lambda gates, state: (f(bound(gates + state[0] @ recurrence)),)

    biases = None if b is None else torch.add(*b.chunk(2, -1))
    return _recur(x, w, biases, sequence_lens, (initial_h,), cell, r.shape[-1], direction, layout)[:outputs]


def _recur(
    x: Tensor,
    w: Tensor,
    biases: Tensor | None,
    lengths: Tensor | None,
    initial: Sequence[Tensor | None],
    cell: Callable[[int], Cell],
    size: int,
    direction: str,
    layout: int,
) -> tuple[Tensor, ...]:
    """All directions of a layer: the hidden states of every step, then each last state."""
    x = x.transpose(0, 1) if layout else x
    ways = []
    for way in range(len(w)):
        start = tuple(
            x.new_zeros((x.shape[1], size)) if state is None else (state[:, way] if layout else state[way])
            for state in initial
        )
        gates = F.linear(x, w[way], None if biases is None else biases[way])
        ways.append(_loop(gates, lengths, start, cell(way), direction == "reverse" or way == 1))
    # [T, N, H] of each direction become [T, D, N, H], or [N, T, D, H]; [N, H] become [D, N, H], or [N, D, H].
    every = torch.stack([hidden for hidden, _ in ways], 1)
    last = (torch.stack(states, int(layout)) for states in zip(*(final for _, final in ways), strict=True))
    return every.permute(2, 0, 1, 3) if layout else every, *last


def _loop(gates: Tensor, lengths: Tensor | None, state: State, cell: Cell, backwards: bool) -> tuple[Tensor, State]:
    """The hidden state of every step [T, N, H], 0 beyond the end of a sequence, and the state at its end."""
    if lengths is None:
        gates = gates.flip(0) if backwards else gates
        hidden = []
        for step in gates.unbind(0):
            state = cell(step, state)
            hidden.append(state[0])
        every = torch.stack(hidden)
        return (every.flip(0) if backwards else every), state

    time = torch.arange(len(gates), device=gates.device)[:, None]
    running = time < lengths  # [T, N]
    if backwards:
        # Every sequence is reversed within its own length; the same order restores it.
        order = torch.where(running, lengths - 1 - time, time)[..., None]
        gates = gates.take_along_dim(order, 0)
    hidden = []
    for step, alive in zip(gates.unbind(0), running[..., None].unbind(0), strict=True):
        state = tuple(torch.where(alive, new, old) for new, old in zip(cell(step, state), state, strict=True))
        hidden.append(torch.where(alive, state[0], 0.0))
    every = torch.stack(hidden)
    return (every.take_along_dim(order, 0) if backwards else every), state


def _activations(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Function]:
    """The functions named; those that have parameters take the next ones of the two lists, or their defaults."""
    given = iter(alphas), iter(betas)
    functions: list[Function] = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise OnnxdfqError(f"no recurrent layer has the activation {name}")
        function, defaults = _ACTIVATIONS[name.lower()]
        parameters = [next(values, default) for values, default in zip(given, defaults, strict=False)]
        functions.append(partial(_applied, function, parameters))
    return functions


def _applied(function: Callable[..., Tensor], parameters: Sequence[float], x: Tensor) -> Tensor:
    return function(x, *parameters)


def _bound(clip: float | None) -> Function:
    return (lambda x: x) if clip is None else partial(torch.clamp, min=-clip, max=clip)
