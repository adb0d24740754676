"""Small networks in plain torch.nn, each with the structure of a family that people export.

``build("resnet")`` gives a network in eval mode, with seeded weights and the BatchNormalization statistics of a batch
that it has seen, so that signals keep their size from the first layer to the last.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.onnxdfq.engine.networks import classifiers, dense, sequences

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg": classifiers.vgg,
    "resnet": classifiers.resnet,
    "bottleneck": classifiers.bottleneck,
    "mobilenet_v2": classifiers.mobilenet_v2,
    "mobilenet_v3": classifiers.mobilenet_v3,
    "shufflenet": classifiers.shufflenet,
    "densenet": classifiers.densenet,
    "inception": classifiers.inception,
    "efficientnet": classifiers.efficientnet,
    "convnext": classifiers.convnext,
    "unet": dense.UNet,
    "deeplab": dense.DeepLab,
    "super_resolution": dense.super_resolution,
    "style_transfer": dense.style_transfer,
    "yolo_anchors": dense.YoloAnchors,
    "yolo_free": dense.YoloFree,
    "vit": sequences.ViT,
    "vit_fused": lambda: sequences.ViT(fused=True),
    "swin": sequences.Swin,
    "lstm": sequences.lstm,
    "gru": sequences.gru,
}
ANY_SIZE = {"unet", "deeplab", "super_resolution", "style_transfer", "yolo_anchors", "yolo_free"}
# What an export can leave open: the batch always, height and width where the network does not fix them.
OPEN_AXES = {name: (0, 2, 3) if name in ANY_SIZE else (0,) for name in NETWORKS}
# The first opset in which the TorchScript exporter can write half pixels, aligned corners, strided slices and fused
# attention.
FIRST_OPSET = {"unet": 11, "deeplab": 11, "swin": 10, "vit_fused": 14}


def images(count: int, height: int = 32, width: int = 32) -> Tensor:
    """A batch for any of the networks: [count, 3, height, width]."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(count))


def other_images(name: str) -> Tensor:
    """A batch for the network that differs from ``images(2)`` along all of its open axes."""
    return images(3, 48, 64) if name in ANY_SIZE else images(3)


def build(name: str) -> nn.Module:
    """The network, ready to be exported."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # so that the statistics are those of the one batch
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        network.train()(images(8))
    return network.eval()
