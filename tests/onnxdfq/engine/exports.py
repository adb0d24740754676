"""A network as ONNX, by either of PyTorch's exporters."""

from __future__ import annotations

import io
import warnings
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

Exporter = Literal["torchscript", "dynamo"]


def exported(
    network: nn.Module, image: Tensor, exporter: Exporter, opset: int, open_axes: tuple[int, ...] = ()
) -> onnx.ModelProto:
    """The network for images of this shape, or of any size along the axes that are left open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both exporters warn a lot, one of them of its own age
        if exporter == "dynamo":
            shapes = (dict.fromkeys(open_axes, torch.export.Dim.DYNAMIC),) if open_axes else None
            program = torch.onnx.export(
                network, (image,), opset_version=opset, dynamo=True, dynamic_shapes=shapes, verbose=False
            )
            assert program is not None
            return program.model_proto
        axes = {"image": {axis: f"axis_{axis}" for axis in open_axes}}
        file = io.BytesIO()
        torch.onnx.export(
            network,
            (image,),
            file,  # type: ignore[arg-type]  # as it is documented for this exporter
            opset_version=opset,
            dynamo=False,
            input_names=["image"],
            dynamic_axes=axes,
        )
        return onnx.load_from_string(file.getvalue())
