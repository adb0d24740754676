"""Cast to a type that is known, where a type was borrowed from a tensor that is computed.

    zeros, image -> CastLike -> b       becomes       zeros -> Cast(to the type of image) -> b

PyTorch writes the bias of a convolution that has none so, if it is told to keep BatchNormalization. With the image gone
from its inputs the cast is one of constants, which the simplifier computes: the bias is a constant again, and what
follows can be folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from passes.base import Pass, PassResult


@dataclass(frozen=True)
class CastLikeToCast(Pass):
    """Rewrite every CastLike whose type is known."""

    name: ClassVar[str] = "castlike-to-cast"

    def __call__(self, graph: gs.Graph) -> PassResult:
        found = [node for node in graph.nodes if node.op == "CastLike" and _numpy_type(node.inputs[1])]
        for node in found:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(node.inputs[1].dtype))
            node.op, node.attrs = "Cast", {"to": kind}
            node.inputs = node.inputs[:1]
        graph.cleanup()
        return PassResult(len(found))


def _numpy_type(tensor: gs.Tensor) -> bool:
    """Whether the type is known, and one that numpy has: for the others graphsurgeon keeps ONNX's number."""
    return tensor.dtype is not None and not isinstance(tensor.dtype, int)
