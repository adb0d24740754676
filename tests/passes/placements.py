"""Golden placements: how they are written down and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Skip
from passes.placement import WeightSite, place
from passes.targets import Target
from tests.passes.conftest import canonical, model_of

RNG = np.random.default_rng(2)


def graph_of(text: str, **initializers: np.ndarray | tuple[int, ...]) -> gs.Graph:
    """A canonical graph; initializers are arrays or the shapes of random ones. Nodes are called Op_output."""
    given = {
        name: RNG.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else value
        for name, value in initializers.items()
    }
    return canonical(model_of(text, **given))


def reads(node: str) -> str:
    return f"input of {node} ({node.split('_')[0]})"


def writes(node: str) -> str:
    return f"output of {node}: its integer kernel writes integers"


def between(node: str) -> str:
    return f"output of {node} ({node.split('_')[0]}) between integers"


def touches(node: str) -> str:
    return f"output of {node} ({node.split('_')[0]}): the target has no float units"


def check(
    graph: gs.Graph,
    target: Target,
    tensors: Mapping[str, str],
    readers: Mapping[str, str],
    groups: Sequence[set[str]] = (),
    skips: Sequence[tuple[str, str]] = (),
    weights: Mapping[str, tuple[str, int | None]] | None = None,
    **known: Any,
) -> None:
    """Compare all of a placement; readers are written as text, names apart by spaces. known: as ``place`` takes it."""
    placed = place(graph, target, **known)
    assert placed.tensors == tensors
    assert placed.readers == {name: set(nodes.split()) for name, nodes in readers.items()}
    assert sorted(map(sorted, placed.groups)) == sorted(map(sorted, groups))
    assert placed.skips == [Skip(node, "placement", reason) for node, reason in skips]
    if weights is not None:
        assert placed.weights == {name: WeightSite(*site) for name, site in weights.items()}
