"""Networks that answer for every place of the image: masks, boxes, larger images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.onnxdfq.engine.networks.layers import Parallel, Residual, conv_norm


class UNet(nn.Module):
    """One way up is a ConvTranspose, the other a Resize to the size of what it joins."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (
            nn.Sequential(conv_norm(inputs, outputs), conv_norm(outputs, outputs))
            for inputs, outputs in ((3, 6), (6, 12), (12, 24))
        )
        self.up_two = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.join_two = conv_norm(24, 12)
        self.join_one = conv_norm(18, 6)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        two = self.two(F.max_pool2d(one, 2))
        up = self.join_two(torch.cat([two, self.up_two(self.three(F.max_pool2d(two, 2)))], dim=1))
        up = F.interpolate(up, size=one.shape[2:], mode="bilinear", align_corners=False)
        return self.last(self.join_one(torch.cat([one, up], dim=1)))


class DeepLab(nn.Module):
    """Dilated convolutions, the mean of the whole image among the branches, and a Resize to the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(3, 8, 3, 2), conv_norm(8, 8, 3, 2))
        self.pyramid = Parallel(conv_norm(8, 4, 1), conv_norm(8, 4, dilation=2), conv_norm(8, 4, dilation=4))
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU())
        self.head = nn.Sequential(conv_norm(16, 8), nn.Conv2d(8, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        whole = self.whole(features).expand(-1, -1, *features.shape[2:])
        logits = self.head(torch.cat([self.pyramid(features), whole], dim=1))
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=True)


def super_resolution() -> nn.Module:
    body = [Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 8, 3, padding=1)))]
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.Tanh(), *body, nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)
    )


def style_transfer() -> nn.Module:
    def block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, kernel, stride)
        return nn.Sequential(nn.ReflectionPad2d(kernel // 2), conv, nn.InstanceNorm2d(outputs, affine=True), nn.ReLU())

    middle = Residual(nn.Sequential(block(16, 16, 3, 1), block(16, 16, 3, 1)))
    up = [nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1), nn.GroupNorm(2, 8), nn.LeakyReLU(0.1)]
    larger = [nn.Upsample(scale_factor=2.0), block(8, 3, 3, 1), nn.Sigmoid()]
    return nn.Sequential(block(3, 8, 5, 2), block(8, 16, 3, 2), middle, *up, *larger)


class Neck(nn.Module):
    """Features at two strides: pooled pyramid (SPPF) below, upsampled and joined above."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(conv_norm(3, 8, 3, 2, act=nn.SiLU), conv_norm(8, 8, 3, 2, act=nn.SiLU))
        self.late = conv_norm(8, 16, 3, 2, act=nn.SiLU)
        self.squeeze = conv_norm(16, 8, 1, act=nn.SiLU)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.pooled = conv_norm(32, 16, 1, act=nn.SiLU)
        self.joined = conv_norm(24, 12, act=nn.SiLU)

    def forward(self, x: Tensor) -> list[Tensor]:
        early = self.early(x)
        pyramid = [self.squeeze(self.late(early))]
        for _ in range(3):
            pyramid.append(self.pool(pyramid[-1]))
        late = self.pooled(torch.cat(pyramid, dim=1))
        up = F.interpolate(late, scale_factor=2.0, mode="nearest")
        return [self.joined(torch.cat([early, up], dim=1)), late]


def centres(features: Tensor) -> Tensor:
    """The places of a feature map [N, C, H, W] as x, y: [H, W, 2]."""
    height, width = features.shape[2:]
    y, x = torch.arange(height, device=features.device), torch.arange(width, device=features.device)
    y, x = y.view(-1, 1).expand(height, width), x.view(1, -1).expand(height, width)
    return torch.stack([x, y], dim=-1).to(features.dtype)


class YoloAnchors(nn.Module):
    """The head of YOLOv5: boxes around the anchors of every place, with a grid made at call time."""

    anchors: Tensor

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes
        self.neck = Neck()
        self.register_buffer("anchors", torch.tensor([[[5.0, 6], [8, 15]], [[16, 12], [30, 28]]]))
        self.heads = nn.ModuleList(nn.Conv2d(channels, 2 * (5 + classes), 1) for channels in (12, 16))

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for features, head, anchors, stride in zip(self.neck(x), self.heads, self.anchors, (4, 8), strict=True):
            raw = head(features)
            n, _, h, w = raw.shape
            raw = raw.view(n, 2, 5 + self.classes, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            place, size, score = raw.split((2, 2, 1 + self.classes), dim=-1)
            place = (place * 2 - 0.5 + centres(features)) * stride
            size = (size * 2) ** 2 * anchors.view(1, 2, 1, 1, 2)
            found.append(torch.cat([place, size, score], dim=-1).flatten(1, 3))
        return torch.cat(found, dim=1)


class YoloFree(nn.Module):
    """The head of YOLOv8: distances to the four sides as expectations over bins, and the best class of each place."""

    def __init__(self, classes: int = 3, bins: int = 8) -> None:
        super().__init__()
        self.neck = Neck()
        self.bins = bins
        self.boxes = nn.ModuleList(nn.Conv2d(channels, 4 * bins, 1) for channels in (12, 16))
        self.scores = nn.ModuleList(nn.Conv2d(channels, classes, 1) for channels in (12, 16))
        self.expectation = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.expectation.weight[:] = torch.arange(bins, dtype=torch.float).view(1, bins, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores = [], []
        for features, box, score, stride in zip(self.neck(x), self.boxes, self.scores, (4, 8), strict=True):
            sides = box(features).flatten(2)
            sides = sides.view(sides.shape[0], 4, self.bins, -1).transpose(1, 2).softmax(1)
            sides = self.expectation(sides).squeeze(1)
            middle = centres(features).view(-1, 2).t().unsqueeze(0) + 0.5
            low, high = middle - sides[:, :2], middle + sides[:, 2:]
            boxes.append(torch.cat([(low + high) / 2, high - low], dim=1) * stride)
            scores.append(score(features).flatten(2).sigmoid())
        probabilities = torch.cat(scores, dim=2)
        best, label = probabilities.max(dim=1)
        return torch.cat(boxes, dim=2), best, label
