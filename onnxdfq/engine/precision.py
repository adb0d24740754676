"""The precision and the memory order in which a module runs fastest, found by measuring it where it will run.

    mode = fastest(gm, batch)
    mode.prepare(gm)
    with mode.context(batch.device):
        outputs = gm(mode.arrange(batch))

Results differ between modes, by rounding between memory orders and in the third digit between precisions. The choice
hangs on time, which no two runs share: who promises equal bytes fixes a Mode instead of measuring.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

ROUNDS = 5


@dataclass(frozen=True)
class Mode:
    """dtype: what autocast computes in, None for the module's own precision. channels_last: whether 4-d tensors
    [N, C, H, W] lie in memory as [N, H, W, C]. why: what was measured."""

    dtype: torch.dtype | None = None
    channels_last: bool = False
    why: str = ""

    def __str__(self) -> str:
        words = [str(self.dtype).removeprefix("torch.") if self.dtype else "", "channels last" * self.channels_last]
        return " ".join(filter(None, words)) or "plain"

    def context(self, device: torch.device | str) -> AbstractContextManager[Any]:
        """What the forward pass runs in."""
        return torch.autocast(torch.device(device).type, self.dtype) if self.dtype else nullcontext()

    def prepare(self, module: nn.Module) -> None:
        """Put the 4-d parameters and buffers of ``module`` into the memory order of this mode."""
        if self.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def arrange(self, x: Tensor) -> Tensor:
        """An input of the module, in the memory order of this mode."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last and x.ndim == 4 else x


PLAIN = Mode()


def fastest(module: nn.Module, *batch: Tensor, margin: float = 1.1, budget_s: float = 5.0) -> Mode:
    """The fastest mode for forward and backward of ``module``, which returns a tuple, on a batch like this one.

    margin: how many times as fast as the plain mode another must be to be chosen. budget_s: no round of measurements
        begins later; two always take place, the first to warm up. The module is left as it is.
    """
    modules = {False: module}
    if any(parameter.ndim == 4 for parameter in module.parameters()):
        modules[True] = copy.deepcopy(module)
        Mode(channels_last=True).prepare(modules[True])
    running = [Mode(dtype, order) for dtype in (None, *lower_precision(batch[0].device)) for order in modules]
    seconds: dict[Mode, list[float]] = {mode: [] for mode in running}

    def gain(mode: Mode) -> float:  # round by round, as what else the machine does slows all modes of a round alike
        return median(plain / own for plain, own in zip(seconds[PLAIN], seconds[mode], strict=False))

    deadline = time.perf_counter() + budget_s
    for turn in range(1 + ROUNDS):
        if running == [PLAIN] or (turn > 1 and time.perf_counter() > deadline):
            break
        for mode in list(running):
            try:
                taken = _seconds(modules[mode.channels_last], mode, batch)
            except RuntimeError:  # an operator without that precision, no memory for another order
                if mode == PLAIN:
                    raise
                running.remove(mode)
                del seconds[mode]
                continue
            if turn:
                seconds[mode].append(taken)
        running = [mode for mode in running if mode == PLAIN or not turn or gain(mode) > 1]
    gains = {mode: gain(mode) for mode in seconds if mode != PLAIN}
    if not gains:
        return replace(PLAIN, why="no other mode can run")
    best = max(gains, key=gains.__getitem__)
    others = ", ".join(f"{mode} {times:.2f} times as fast" for mode, times in gains.items())
    why = f"forward and backward: plain {1000 * median(seconds[PLAIN]):.1f} ms, {others}"
    return replace(best if gains[best] >= margin else PLAIN, why=why)


def lower_precision(device: torch.device) -> tuple[torch.dtype, ...]:
    """bfloat16 where the hardware computes in it: emulated it is slower, and would take minutes to try. float16 is no
    alternative, as small gradients vanish in it."""
    able = False
    if device.type == "cuda":
        able = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # older versions of torch cannot tell
        able = any(torch.cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return (torch.bfloat16,) if able else ()


def _seconds(module: nn.Module, mode: Mode, batch: Sequence[Tensor]) -> float:
    """How long one forward and backward pass takes, to the inputs and to whatever of the module is trained."""
    device = batch[0].device
    inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in batch]
    wanted = [tensor for tensor in (*inputs, *module.parameters()) if tensor.requires_grad]
    _finish(device)
    started = time.perf_counter()
    with mode.context(device):
        outputs = module(*map(mode.arrange, inputs))
    reached = [output.float().sum() for output in outputs if output.requires_grad]
    if reached:
        torch.autograd.grad(reached, wanted, allow_unused=True)
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":  # calls return before the work is done
        torch.cuda.synchronize(device)
