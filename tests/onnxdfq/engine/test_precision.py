"""The choice among precisions and memory orders, with made-up times and with real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onnxdfq.engine import precision
from onnxdfq.engine.precision import PLAIN, ROUNDS, Mode, fastest

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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[Mode, float]], list[Mode]]:
    """On hardware with bfloat16, let modes take as long as given; the list tells which ran."""

    def install(seconds: dict[Mode, float]) -> list[Mode]:
        ran: list[Mode] = []

        def take(module: nn.Module, mode: Mode, batch: Any) -> float:
            ran.append(mode)
            if mode not in seconds:
                raise RuntimeError("not implemented for this precision")
            return seconds[mode]

        monkeypatch.setattr(precision, "_seconds", take)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
        return ran

    return install


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({PLAIN: 1.0, LAST: 0.8, BF16: 0.9, BOTH: 0.5}, BOTH),
        ({PLAIN: 1.0, LAST: 0.8, BF16: 0.9, BOTH: 2.0}, LAST),
        ({PLAIN: 1.0, LAST: 1.5, BF16: 0.4, BOTH: 0.5}, BF16),
        ({PLAIN: 1.0, LAST: 0.95, BF16: 0.95, BOTH: 0.95}, PLAIN),
        ({PLAIN: 1.0, LAST: 0.5}, LAST),
        ({PLAIN: 1.0}, PLAIN),
    ],
)
def test_the_fastest_wins_if_it_is_clearly_faster(
    clock: Any, image: Tensor, seconds: dict[Mode, float], expected: Mode
) -> None:
    clock(seconds)
    chosen = fastest(Net(), image)
    assert (chosen.dtype, chosen.channels_last) == (expected.dtype, expected.channels_last)


def test_a_margin_decides_what_is_clear(clock: Any, image: Tensor) -> None:
    clock({PLAIN: 0.0123, LAST: 0.0090})
    assert fastest(Net(), image).channels_last
    chosen = fastest(Net(), image, margin=1.5)
    assert not chosen.channels_last
    assert chosen.why == "forward and backward: plain 12.3 ms, channels last 1.37 times as fast"


def test_rounds_are_compared_one_by_one(monkeypatch: pytest.MonkeyPatch, image: Tensor) -> None:
    """A machine that becomes slower and slower, and one measurement that is off."""
    durations = iter([1, 1, 1, 0.8, 10, 8, 20, 16, 30, 2, 40, 32])
    monkeypatch.setattr(precision, "_seconds", lambda *arguments: next(durations))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert fastest(Net(), image).why.endswith("channels last 1.25 times as fast")


def test_what_cannot_win_is_not_measured_again(clock: Any, image: Tensor) -> None:
    ran = clock({PLAIN: 1.0, LAST: 1.1, BF16: 0.5})
    fastest(Net(), image)
    assert [ran.count(mode) for mode in (PLAIN, LAST, BF16, BOTH)] == [1 + ROUNDS, 2, 1 + ROUNDS, 1]


def test_no_round_begins_beyond_the_budget(clock: Any, image: Tensor) -> None:
    ran = clock({PLAIN: 1.0, LAST: 0.9, BF16: 0.5, BOTH: 0.4})
    fastest(Net(), image, budget_s=0)
    assert len(ran) == 2 * 4


def test_only_what_makes_sense_is_tried(clock: Any, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = clock({PLAIN: 1.0, LAST: 1.0, BF16: 1.0})
    fastest(nn.Sequential(nn.Linear(12, 3)), image)
    assert set(ran) == {PLAIN, BF16}
    ran.clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    fastest(Net(), image)
    assert set(ran) == {PLAIN, LAST}
    ran.clear()
    assert fastest(nn.Sequential(nn.Linear(12, 3)), image) == Mode(why="no other mode can run")
    assert not ran


def test_an_error_of_the_plain_mode_is_no_matter_of_precision(clock: Any, image: Tensor) -> None:
    clock({})
    with pytest.raises(RuntimeError):
        fastest(Net(), image)


def test_measuring_leaves_the_module_as_it_is(image: Tensor) -> None:
    net = Net()
    before = {name: (value.clone(), value.stride()) for name, value in net.named_parameters()}
    assert "plain" in fastest(net, image).why
    for name, value in net.named_parameters():
        assert torch.equal(value, before[name][0])
        assert value.stride() == before[name][1]
        assert value.grad is None
    assert not image.requires_grad


@pytest.mark.parametrize("mode", [PLAIN, LAST, BF16, BOTH], ids=str)
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
