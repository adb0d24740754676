"""Precisions and memory orders, and which the hardware has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onnxdfq.engine.precision import Mode, lower_precision

BF16, LAST = Mode(torch.bfloat16), Mode(channels_last=True)
BOTH = Mode(torch.bfloat16, channels_last=True)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.linear(self.conv(x).relu().mean((2, 3))),)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("able", "expected"), [({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, None)])
def test_half_precision_is_for_hardware_that_has_it(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert lower_precision(torch.device("cpu")) == expected


@pytest.mark.parametrize("mode", [Mode(), LAST, BF16, BOTH], ids=str)
def test_every_mode_computes_the_same(mode: Mode, image: Tensor) -> None:
    net = Net()
    (expected,) = net(image)
    mode.prepare(net)
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last) == mode.channels_last
    assert mode.arrange(image).is_contiguous(memory_format=torch.channels_last) == mode.channels_last
    assert mode.arrange(image[0]).is_contiguous()
    with mode.context("cpu"):
        (actual,) = net(mode.arrange(image))
    assert actual.dtype == (mode.dtype or torch.float32)
    torch.testing.assert_close(actual.float(), expected, rtol=2e-2, atol=2e-2)
