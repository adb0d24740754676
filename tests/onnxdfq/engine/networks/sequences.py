"""Networks that read an image, or lines of one, as a sequence: attention and recurrence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.onnxdfq.engine.networks.layers import CLASSES, conv_norm


class Attention(nn.Module):
    """Multi-head attention over [N, L, C]: written out, or as torch's fused function."""

    def __init__(self, channels: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        n, length, channels = x.shape
        split = self.qkv(x).reshape(n, length, 3, self.heads, channels // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, bias)
        else:
            scores = q * self.scale @ k.transpose(-2, -1)
            y = (scores if bias is None else scores + bias).softmax(dim=-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, length, channels))


class Encoder(nn.Module):
    def __init__(self, channels: int, fused: bool) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = Attention(channels, 2, fused)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.mlp(self.between(x))


class ViT(nn.Module):
    def __init__(self, fused: bool = False, channels: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, channels))
        self.position = nn.Parameter(torch.randn(1, 17, channels) / 4)
        self.encoders = nn.Sequential(Encoder(channels, fused), Encoder(channels, fused))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], dim=1) + self.position
        return self.head(self.norm(self.encoders(x))[:, 0])


class Swin(nn.Module):
    """Attention within windows that are shifted, with a learned bias for every relative position."""

    relative: Tensor

    def __init__(self, channels: int = 8, window: int = 4) -> None:
        super().__init__()
        self.window = window
        self.patches = nn.Conv2d(3, channels, 4, 4)
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(channels, 2, False)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, 2))
        place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        distance = place[:, :, None] - place[:, None, :] + window - 1
        self.register_buffer("relative", distance[0] * (2 * window - 1) + distance[1])
        self.merge = nn.Sequential(nn.LayerNorm(4 * channels), nn.Linear(4 * channels, 16, bias=False))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        size = self.window
        windows = torch.roll(self.norm(x), (-2, -2), dims=(1, 2)).view(n, h // size, size, w // size, size, c)
        windows = windows.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)
        bias = self.table[self.relative.view(-1)].view(size * size, size * size, -1).permute(2, 0, 1)
        windows = self.attention(windows, bias.unsqueeze(0)).view(n, h // size, w // size, size, size, c)
        x = x + torch.roll(windows.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c), (2, 2), dims=(1, 2))
        quarters = [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return self.head(self.merge(torch.cat(quarters, dim=-1)).mean(dim=(1, 2)))


class Recurrent(nn.Module):
    """Columns of a feature map in a row through a recurrent layer, as for reading text, and one answer at the end."""

    def __init__(self, layer: nn.Module, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(3, 6, 3, 2), conv_norm(6, 6, 3, 2), nn.MaxPool2d((2, 1)))
        self.layer = layer
        self.head = nn.Linear(features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        sequence, _ = self.layer(self.body(x).flatten(1, 2).transpose(1, 2))
        return self.head(sequence[:, -1])


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM(24, 12, num_layers=2, batch_first=True, bidirectional=True), 24)


def gru() -> nn.Module:
    return Recurrent(nn.GRU(24, 16, batch_first=True), 16)
