"""Swing convolution: a convolution with strides sees its input moved by up to one place, by chance.

    x -> Conv(strides 2)      becomes      x -> reflected by 1 on all sides -> cut out anywhere -> Conv(strides 2)

With strides most gradients reach every other pixel only, and images get a chequered pattern; moving spreads them.
Genie (Jeon et al., CVPR 2023), section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from onnxdfq.engine.operators.convolution import conv


def swing(network: fx.GraphModule, generator: torch.Generator) -> None:
    """Let all two-dimensional convolutions with strides of ``network`` swing, driven by ``generator``."""

    def moved(x: Tensor) -> Tensor:
        if x.ndim != 4 or min(x.shape[2:]) < 2:
            return x
        height, width = x.shape[2:]
        top, left = torch.randint(3, (2,), generator=generator).tolist()
        return F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, top : top + height, left : left + width]

    for node in list(network.graph.nodes):
        if node.target is conv and max(node.kwargs.get("strides") or [1]) > 1:
            with network.graph.inserting_before(node):
                node.update_arg(0, network.graph.call_function(moved, (node.args[0],)))
    network.recompile()
