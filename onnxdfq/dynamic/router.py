"""A small network that looks at an image once and says which level shall answer it.

    image -> mean of tiles, about 16 to a side -> Conv 3x3/2, 8, Relu -> Conv 3x3/2, 16, Relu
          -> mean and deviation of each channel -> Gemm 32, Relu -> Gemm: one number for each level

It is trained on synthetic images while the levels stay as they are: first to name the cheapest level that answers as
the float model does, then on

    L = sum over levels of r_k KL_k + max(0, E[cost] / wanted - 1)         r: Gumbel softmax of what it says, T 5 -> 0.5

(DynaDFQ's selector is not published in detail; this is the form of CADyQ, Hong et al., ECCV 2022, with one decision for
an image). Its own cost is part of what an image pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from onnxdfq.dynamic.answers import Answers
from onnxdfq.images.model_input import ModelInput

SIDE = 16  # tiles, about
STEPS, WARM_UP, BATCH, RATE = 600, 300, 64, 3e-3
CLOSE = 0.1  # nats from the float model that a level's answer may be
HOT, COLD = 5.0, 0.5  # temperatures
OPSET, IR = 17, 8


@dataclass(frozen=True)
class Router:
    """model: ONNX, from the model's input to a number for each level. numbers: what it says to the images it learned
    from, [N, L]; its choice is the largest after ``leaning`` has been added."""

    model: onnx.ModelProto
    numbers: np.ndarray


class _Network(nn.Module):
    def __init__(self, images: Tensor, tile: int, levels: int) -> None:
        super().__init__()
        channels = images.shape[1]
        self.tile = tile
        self.shift = images.mean((0, 2, 3), keepdim=True)
        self.scale = images.std((0, 2, 3), keepdim=True) + 1e-6
        self.first = nn.Conv2d(channels, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 16, 3, 2, 1)
        self.third = nn.Linear(32, 32)
        self.last = nn.Linear(32, levels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d((x - self.shift) / self.scale, self.tile)
        x = F.relu(self.second(F.relu(self.first(x))))
        mean = x.mean((2, 3))
        deviation = ((x * x).mean((2, 3)) - mean * mean).clamp_min(0).add(1e-6).sqrt()
        found: Tensor = self.last(F.relu(self.third(torch.cat([mean, deviation], 1))))
        return found


def train(
    images: np.ndarray, answers: Answers, costs: Sequence[float], wanted: float, into: ModelInput, seed: int
) -> Router:
    """images: [N, C, H, W] as the model reads them, but for its layout, with ``answers`` to them. costs: of each level;
    wanted: mean cost."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = torch.from_numpy(np.ascontiguousarray(images, np.float32))
        network = _Network(x, max(1, min(into.height, into.width) // SIDE), len(costs))
        divergence = torch.from_numpy(answers.divergence).float()
        price = torch.tensor(costs, dtype=torch.float32) / wanted
        fine = answers.right & (answers.divergence < CLOSE)
        fine[-1] = True
        cheapest = torch.from_numpy(fine.argmax(0))
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        for step in range(STEPS):
            rows = torch.randint(len(x), (BATCH,))
            shown = x[rows] if step % 2 else x[rows].flip(3)
            said = network(shown)
            if step < WARM_UP:
                loss = F.cross_entropy(said, cheapest[rows])
            else:
                heat = HOT * (COLD / HOT) ** ((step - WARM_UP) / (STEPS - WARM_UP))
                chosen = F.gumbel_softmax(said, heat)
                loss = (chosen * divergence[:, rows].T).sum(1).mean() + torch.relu((chosen @ price).mean() - 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            numbers = torch.cat([network(part) for part in x.split(BATCH)]).numpy()
    return Router(_exported(network, into), numbers)


def leaning(numbers: np.ndarray, costs: Sequence[float], wanted: float) -> np.ndarray:
    """[L], to be added to what the router says: so much against dear levels that the mean cost is ``wanted``, or as
    near below as it gets."""
    relative = np.asarray(costs) / max(costs)
    gaps = np.diff(np.unique(relative))
    bound = (float(np.ptp(numbers)) + 1.0) / max(float(gaps.min(initial=1.0)), 1e-6)  # that outweighs all it says
    low, high = -bound, bound
    for _ in range(80):
        middle = (low + high) / 2
        cost = np.asarray(costs)[(numbers - middle * relative).argmax(1)].mean()
        low, high = (middle, high) if cost > wanted else (low, middle)
    return (-high * relative).astype(np.float32)


def _exported(network: _Network, into: ModelInput) -> onnx.ModelProto:
    weights: dict[str, Any] = {
        "shift": network.shift, "scale": network.scale,
        "w1": network.first.weight, "b1": network.first.bias, "w2": network.second.weight, "b2": network.second.bias,
        "w3": network.third.weight, "b3": network.third.bias, "w4": network.last.weight, "b4": network.last.bias,
    }  # fmt: skip
    constants: dict[str, Any] = {name: tensor.detach().numpy() for name, tensor in weights.items()}
    constants |= {"zero": np.float32(0), "little": np.float32(1e-6)}
    tile = [network.tile, network.tile]
    conv: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    mean: dict[str, Any] = {"axes": [2, 3], "keepdims": 0}
    nhwc = into.layout == "NHWC"

    def node(op: str, reads: str, writes: str, **attributes: Any) -> onnx.NodeProto:
        """Names of tensors begin with that of the input, which none of them is then."""
        own = [into.name if name == "input" else _own(name, into) for name in reads.split()]
        return helper.make_node(op, own, [_own(writes, into)], _own(writes, into), **attributes)

    nodes = [
        node("Transpose", "input", "image", perm=[0, 3, 1, 2]) if nhwc else node("Identity", "input", "image"),
        node("Sub", "image shift", "centred"),
        node("Div", "centred scale", "normal"),
        node("AveragePool", "normal", "tiles", kernel_shape=tile, strides=tile),
        node("Conv", "tiles w1 b1", "c1", **conv),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2", "c2", **conv),
        node("Relu", "c2", "r2"),
        node("ReduceMean", "r2", "mean", **mean),
        node("Mul", "r2 r2", "squared"),
        node("ReduceMean", "squared", "power", **mean),
        node("Mul", "mean mean", "mean_squared"),
        node("Sub", "power mean_squared", "variance"),
        node("Max", "variance zero", "positive"),
        node("Add", "positive little", "safe"),
        node("Sqrt", "safe", "deviation"),
        node("Concat", "mean deviation", "features", axis=1),
        node("Gemm", "features w3 b3", "g3", transB=1),
        node("Relu", "g3", "r3"),
        node("Gemm", "r3 w4 b4", "levels", transB=1),
    ]
    shape: list[str | int | None] = ["N", *into.shape(1)[1:]]
    levels = helper.make_tensor_value_info(_own("levels", into), TensorProto.FLOAT, ["N", len(constants["b4"])])
    held = [numpy_helper.from_array(np.asarray(values), _own(name, into)) for name, values in constants.items()]
    read = helper.make_tensor_value_info(into.name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "router", [read], [levels], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model)
    return model


def _own(name: str, into: ModelInput) -> str:
    return f"{into.name}/{name}"
