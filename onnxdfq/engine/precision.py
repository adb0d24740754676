"""The precision and the memory order in which a module runs.

    mode = Mode(lower_precision(device), channels_last=True)
    mode.prepare(gm)
    with mode.context(batch.device):
        outputs = gm(mode.arrange(batch))

Results differ between modes, by rounding between memory orders and in the third digit between precisions. So a mode is
chosen by what the hardware is and not by the clock, which no two runs share: equal seeds shall give equal bytes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Mode:
    """dtype: what autocast computes in, None for the module's own precision. channels_last: whether 4-d tensors
    [N, C, H, W] lie in memory as [N, H, W, C]."""

    dtype: torch.dtype | None = None
    channels_last: bool = False

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


def lower_precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware computes in it: emulated it is slower. float16 is no alternative, as small gradients
    vanish in it."""
    able = False
    if device.type == "cuda":
        able = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # older versions of torch cannot tell
        able = any(torch.cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return torch.bfloat16 if able else None
