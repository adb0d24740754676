"""Convolutional classifiers, one function for each family."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.onnxdfq.engine.networks.layers import CLASSES, Parallel, Residual, SqueezeExcite, classifier, conv_norm


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    head = [nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, CLASSES)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *head)


def resnet() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        body = nn.Sequential(conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, act=nn.Identity))
        project = conv_norm(inputs, outputs, 1, stride, act=nn.Identity) if inputs != outputs else None
        return Residual(body, project, nn.ReLU())

    stem = [conv_norm(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, block(8, 8, 1), block(8, 16, 2), block(16, 16, 1), classifier(16))


def bottleneck() -> nn.Module:
    """ResNet-50's block, with the grouped convolution of ResNeXt."""

    def block(inputs: int, width: int, stride: int) -> nn.Module:
        body = nn.Sequential(
            conv_norm(inputs, width, 1),
            conv_norm(width, width, 3, stride, groups=4),
            conv_norm(width, 4 * width, 1, act=nn.Identity),
        )
        project = conv_norm(inputs, 4 * width, 1, stride, act=nn.Identity) if inputs != 4 * width else None
        return Residual(body, project, nn.ReLU())

    return nn.Sequential(conv_norm(3, 8, 3, 2), block(8, 8, 1), block(32, 8, 1), block(32, 16, 2), classifier(64))


def inverted(
    inputs: int,
    outputs: int,
    stride: int,
    act: Callable[[], nn.Module],
    gate: Callable[[], nn.Module] | None = None,
    kernel: int = 3,
) -> nn.Module:
    """Expand, filter depthwise, project back; with squeeze-excite if there is a gate."""
    wide = 4 * inputs
    excite = [SqueezeExcite(wide, nn.SiLU if act is nn.SiLU else nn.ReLU, gate)] if gate else []
    body = nn.Sequential(
        conv_norm(inputs, wide, 1, act=act),
        conv_norm(wide, wide, kernel, stride, groups=wide, act=act),
        *excite,
        conv_norm(wide, outputs, 1, act=nn.Identity),
    )
    return Residual(body) if (stride, inputs) == (1, outputs) else body


def mobilenet_v2() -> nn.Module:
    blocks = [inverted(8, 8, 1, nn.ReLU6), inverted(8, 12, 2, nn.ReLU6), inverted(12, 12, 1, nn.ReLU6)]
    return nn.Sequential(
        conv_norm(3, 8, 3, 2, act=nn.ReLU6), *blocks, conv_norm(12, 32, 1, act=nn.ReLU6), classifier(32)
    )


def mobilenet_v3() -> nn.Module:
    blocks = [inverted(8, 8, 1, nn.ReLU, nn.Hardsigmoid), inverted(8, 12, 2, nn.Hardswish, nn.Hardsigmoid, 5)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 24, 1), nn.Hardswish(), nn.Flatten(), nn.Linear(24, CLASSES)]
    return nn.Sequential(conv_norm(3, 8, 3, 2, act=nn.Hardswish), *blocks, *head)


def efficientnet() -> nn.Module:
    blocks = [inverted(8, 8, 1, nn.SiLU, nn.Sigmoid), inverted(8, 12, 2, nn.SiLU, nn.Sigmoid, 5)]
    return nn.Sequential(conv_norm(3, 8, 3, 2, act=nn.SiLU), *blocks, conv_norm(12, 32, 1, act=nn.SiLU), classifier(32))


class Shuffle(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, then the halves are interleaved."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        inputs = channels if stride > 1 else half
        self.main = nn.Sequential(
            conv_norm(inputs, half, 1),
            conv_norm(half, half, 3, stride, groups=half, act=nn.Identity),
            conv_norm(half, half, 1),
        )
        down = conv_norm(inputs, inputs, 3, stride, groups=inputs, act=nn.Identity)
        self.side = nn.Sequential(down, conv_norm(inputs, half, 1)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.side is None:
            kept, changed = x.chunk(2, dim=1)
        else:
            kept, changed = self.side(x), x
        x = torch.cat([kept, self.main(changed)], dim=1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> nn.Module:
    return nn.Sequential(conv_norm(3, 16, 3, 2), Shuffle(16, 2), Shuffle(16, 1), Shuffle(16, 1), classifier(16))


def densenet() -> nn.Module:
    def before(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        return [nn.BatchNorm2d(inputs), nn.ReLU(), conv]

    def dense(inputs: int, count: int, growth: int = 6) -> list[nn.Module]:
        widths = range(inputs, inputs + count * growth, growth)
        return [Parallel(nn.Identity(), nn.Sequential(*before(n, 12, 1), *before(12, growth, 3))) for n in widths]

    stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    transition = [*before(26, 13, 1), nn.AvgPool2d(2)]
    last = [nn.BatchNorm2d(31), nn.ReLU(), classifier(31)]
    return nn.Sequential(stem, *dense(8, 3), *transition, *dense(13, 3), *last)


def inception() -> nn.Module:
    def mixed(inputs: int) -> nn.Module:
        return Parallel(
            conv_norm(inputs, 6, 1),
            nn.Sequential(conv_norm(inputs, 6, 1), conv_norm(6, 6, (1, 7)), conv_norm(6, 6, (7, 1))),
            nn.Sequential(conv_norm(inputs, 6, 1), Parallel(conv_norm(6, 4, (1, 3)), conv_norm(6, 4, (3, 1)))),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_norm(inputs, 4, 1)),
        )

    reduction = Parallel(conv_norm(24, 8, 3, 2), nn.MaxPool2d(3, 2, ceil_mode=True))
    pool = nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(conv_norm(3, 8, 3, 2), pool, mixed(8), nn.LocalResponseNorm(5), reduction, classifier(32))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale * self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 4, 4), ChannelNorm(8), ConvNeXtBlock(8), ConvNeXtBlock(8)]
    down = [ChannelNorm(8), nn.Conv2d(8, 16, 2, 2), ConvNeXtBlock(16)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, CLASSES)]
    return nn.Sequential(*stem, *down, *head)
