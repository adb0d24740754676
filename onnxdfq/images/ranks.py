"""Several processes that share the making of images, as torchrun starts them.

    torchrun --no-python --nproc-per-node 2 onnxdfq synth model.onnx -n 512 -o images.npz

Process r of R makes shards r, r + R, r + 2R ...; the first one gathers them. Which process made a shard does not show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from onnxdfq.errors import OnnxdfqError

PATIENCE = timedelta(days=30)  # of those that are done with theirs while another makes its last shard


@dataclass(frozen=True)
class Ranks:
    """This process is number ``rank`` of ``count``; ``local`` is its number on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    def mine(self, shards: Sequence[int]) -> Sequence[int]:
        """The shards that this process makes."""
        return shards[self.rank :: self.count]

    def agreed(self, value: Any) -> Any:
        """What the first process has as ``value``, in all of them."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes in order of rank for the first process; none for the others."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values = [None] * self.count if self.rank == 0 else None
        dist.gather_object(value, values)
        return values or []


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, connected; a single one without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise OnnxdfqError(f"WORLD_SIZE is {count}, but {missing[0]} is not set", "start it with torchrun, or unset it")
    import torch
    import torch.distributed as dist

    ranks = Ranks(int(os.environ["RANK"]), count, int(os.environ["LOCAL_RANK"]))
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local % torch.cuda.device_count())
    # What is gathered are images and numbers on the CPU, once per run: gloo carries them; nccl is there for gradients.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
