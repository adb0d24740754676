"""The quantized graph as something that learns: the graph with Q and DQ in it, run by the torch engine.

    W -> Q -> DQ -> Conv            becomes     LearnedWeights() -> Conv
    x -> [Clip] -> Q -> DQ -> Conv  becomes     LearnedRange(x) -> Conv

What was learned goes back into initializers: ``learned`` gives the float model with weights on their grids and with its
biases, and the plan with its scales; inserting the plan into that model gives the graph that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import onnx
import torch
from onnx import numpy_helper
from torch import fx, nn

from onnxdfq.emit import with_qdq
from onnxdfq.engine.lower import lower
from onnxdfq.engine.lowering import Shapes
from onnxdfq.engine.operators.quantize import dequantize_linear, quantize_linear
from onnxdfq.tune.fake_quantize import LearnedRange, LearnedWeights
from passes.plan import INTEGER_LIMITS, QuantPlan
from passes.weight_scales import code_limits


class Student:
    """module: takes the model's inputs, returns a tuple. weights, ranges: its quantizers, by the plan's tensors.
    biases: parameters, by initializer; none has gradients but within ``learning``. of_weights, of_range: the kinds of
    quantizers, which a subclass may replace by others that are made and read alike."""

    of_weights: ClassVar[Callable[..., Any]] = LearnedWeights
    of_range: ClassVar[Callable[..., Any]] = LearnedRange

    def __init__(
        self,
        model: onnx.ModelProto,
        plan: QuantPlan,
        biases: frozenset[str],
        shapes: Shapes,
        device: torch.device,
        groups: Sequence[Collection[str]] = (),
    ) -> None:
        """model: in float, BatchNormalization folded, for inputs of ``shapes``. groups: activations that share a scale,
        which they keep."""
        self._model, self._plan = model, plan
        whole = {name: replace(params, codes=None) for name, params in plan.tensors.items()}
        inserted = with_qdq(model, replace(plan, tensors=whole))
        gm = lower(inserted, trainable=False, input_shapes=shapes)
        self.weights: dict[str, LearnedWeights] = {}
        self.ranges: dict[str, LearnedRange] = {}
        for node in list(gm.graph.nodes):
            if node.target is dequantize_linear and node.args[0].target is quantize_linear:
                self._fuse(gm, node, node.args[0].args[0])
        for group in groups:
            members = [self.ranges[name] for name in sorted(group) if name in self.ranges]
            for each in members:
                each.follow(members[0])
        gm.graph.eliminate_dead_code()
        gm.recompile()
        self.module = gm.requires_grad_(False).to(device)
        held = gm.meta["initializers"]
        self.biases = {name: gm.get_parameter(held[name]) for name in sorted(biases) if name in held}

    @contextmanager
    def learning(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """While in it, these parameters have gradients."""
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
        for parameter in parameters:
            parameter.requires_grad_(False).grad = None

    def _fuse(self, gm: fx.GraphModule, node: fx.Node, source: fx.Node) -> None:
        """Put a module in the place of ``node``, a DequantizeLinear whose QuantizeLinear reads ``source``."""
        name = source.meta["onnx_tensor"]
        if name not in self._plan.tensors:  # an output of the model, which the DQ took the name of
            name = node.meta["onnx_tensor"]
        params = self._plan.tensors[name]
        scale = torch.tensor(params.scale)
        quantizer: nn.Module
        if source.op == "get_attr":
            low, high = code_limits(params.bits)
            weights = gm.get_parameter(gm.meta["initializers"][name]).detach()
            quantizer = self.weights[name] = self.of_weights(weights, scale, params.axis, low, high)
            arguments: tuple[fx.Node, ...] = ()
        else:
            low, high = params.codes or INTEGER_LIMITS[params.dtype]
            zero = params.zero_point[0]
            quantizer = self.ranges[name] = self.of_range(params.scale[0], low - zero, high - zero)
            arguments = (source,)
        called = f"quantizer_{len(self.weights) + len(self.ranges)}"
        gm.add_submodule(called, quantizer)
        with gm.graph.inserting_before(node):
            new = gm.graph.call_module(called, arguments)
        new.meta["onnx_tensor"] = node.meta["onnx_tensor"]
        node.replace_all_uses_with(new)

    @torch.no_grad()
    def learned(self) -> tuple[onnx.ModelProto, QuantPlan]:
        """The float model with what was learned, and the plan for it."""
        model, tensors = onnx.ModelProto(), dict(self._plan.tensors)
        model.CopyFrom(self._model)
        initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, weights in self.weights.items():
            _write(initializers[name], weights())
            tensors[name] = replace(tensors[name], scale=tuple(weights.scale.flatten().tolist()))
        for name, values in self.ranges.items():
            tensors[name] = replace(tensors[name], scale=(values.scale.item(),))
        for name, bias in self.biases.items():
            _write(initializers[name], bias)
        return model, replace(self._plan, tensors=tensors)


def _write(initializer: onnx.TensorProto, values: torch.Tensor) -> None:
    initializer.CopyFrom(numpy_helper.from_array(values.detach().float().cpu().numpy(), initializer.name))
