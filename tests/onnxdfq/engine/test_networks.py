"""Whole networks, as both of PyTorch's exporters write them: ONNX Runtime's outputs, the network's own gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from onnxdfq.engine.lower import lower
from tests.onnxdfq.engine.agreement import LIMIT, random_inputs, relative_error
from tests.onnxdfq.engine.exports import Exporter, exported
from tests.onnxdfq.engine.networks import FIRST_OPSET, NETWORKS, OPEN_AXES, build, images, other_images

DIGITS = Path(__file__).parents[3] / "models" / "digits_mobilenet.onnx"
# An export by dynamo takes seconds, so that each family has one; `tools/engine_networks.py` makes them all.
DYNAMO_OPSETS = {
    **dict.fromkeys(("vgg", "bottleneck", "shufflenet", "efficientnet", "vit"), 18),
    **dict.fromkeys(("resnet", "mobilenet_v3", "densenet", "convnext", "lstm"), 20),
    **dict.fromkeys(("mobilenet_v2", "inception", "unet", "yolo_anchors", "vit_fused"), 23),
}
DYNAMO_OPEN = {"unet", "vit"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The tensors are so small that several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NETWORKS)
def test_torchscript_export(name: str) -> None:
    """At a recent opset, for one shape."""
    compare(name, "torchscript", 17)


@pytest.mark.parametrize("name", NETWORKS)
def test_torchscript_export_with_open_shapes(name: str) -> None:
    """At the oldest opset."""
    compare(name, "torchscript", max(9, FIRST_OPSET.get(name, 0)), with_open_axes=True)


@pytest.mark.parametrize(("name", "opset"), DYNAMO_OPSETS.items())
def test_dynamo_export(name: str, opset: int) -> None:
    pytest.importorskip("onnxscript")
    compare(name, "dynamo", opset, with_open_axes=name in DYNAMO_OPEN)


@pytest.mark.parametrize("static", [False, True])
def test_shipped_model(static: bool) -> None:
    model = onnx.load(DIGITS)
    assert relative_error(model, random_inputs(model), static) <= LIMIT


def compare(name: str, exporter: Exporter, opset: int, with_open_axes: bool = False) -> None:
    """Outputs as ONNX Runtime's, lowered for any shape or for this one; gradients as the network's own."""
    network = build(name)
    model = exported(network, images(2), exporter, opset, OPEN_AXES[name] if with_open_axes else ())
    image = other_images(name) if with_open_axes else images(2)
    theirs = image_gradient(network, image)
    for static in (False, True):
        assert relative_error(model, [image], static) <= LIMIT
        gm = lower(model, input_shapes={model.graph.input[0].name: tuple(image.shape)} if static else None)
        ours = image_gradient(gm, image)
        assert (ours - theirs).abs().max() <= LIMIT * theirs.abs().max()
        for parameter, tensor in gm.named_parameters():
            assert tensor.grad is not None, parameter
            assert tensor.grad.isfinite().all(), parameter


def image_gradient(module: nn.Module, image: Tensor) -> Tensor:
    """Of the mean squares of the outputs; the parameters get theirs on the way."""
    image = image.clone().requires_grad_()
    outputs = module(image)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.stack([output.square().mean() for output in outputs if output.is_floating_point()]).sum().backward()
    assert image.grad is not None
    return image.grad
