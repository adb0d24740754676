"""What a pass is, and how passes run one after the other.

A pass is a frozen dataclass with a name and typed options. Called with a graph it rewrites that graph in place
and says what it changed and what it left alone on purpose. Whatever it does, it leaves a valid graph or raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from passes.errors import PassError


@dataclass(frozen=True)
class Skip:
    """Something left alone on purpose: which node, under which rule, and why, for a person to read."""

    node: str
    rule: str
    reason: str


@dataclass(frozen=True)
class PassResult:
    """How many places a pass changed, and what it left alone."""

    changed: int = 0
    skips: tuple[Skip, ...] = ()


@dataclass(frozen=True)
class Pass:
    """Base of all passes: options are the fields of the subclass."""

    name: ClassVar[str]

    def __call__(self, graph: gs.Graph) -> PassResult:
        raise TypeError(f"{type(self).__name__} does not say what it does")


def run_passes(
    graph: gs.Graph, passes: Iterable[Pass], on_pass: Callable[[Pass, PassResult], None] | None = None
) -> list[PassResult]:
    """Run passes in order on one graph, calling ``on_pass`` after each.

    Raises PassError naming the pass that failed and those before it, with the failure as its cause.
    """
    results: list[PassResult] = []
    done: list[str] = []
    for step in passes:
        try:
            result = step(graph)
        except Exception as error:
            before = f" after {', '.join(done)}" if done else ""
            raise PassError(f"pass {step.name} failed{before}: {error}") from error
        done.append(step.name)
        results.append(result)
        if on_pass:
            on_pass(step, result)
    return results
