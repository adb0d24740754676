"""Images from a source: shard by shard, from the store where it has them, by all processes that share the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxdfq.images.ranks import ALONE, Ranks
from onnxdfq.images.source import Batch, Source
from onnxdfq.images.store import Store


@dataclass(frozen=True)
class Synthesis:
    """batch: the images. reused: how many shards were in the store. steps: that a shard took on average."""

    batch: Batch
    reused: int
    steps: float


def synthesize(
    source: Source,
    count: int,
    seed: int,
    store: Store | None = None,
    ranks: Ranks = ALONE,
    on_step: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> Synthesis | None:
    """The first ``count`` images that ``seed`` gives; None in all processes but the first.

    on_step: told of the steps that this process has done, of how many, and the loss.
    """
    mine = ranks.mine(range(-(-count // source.size)))
    kept = {shard: store.load(source, shard) for shard in mine} if store else {}
    made = {shard: batch for shard, batch in kept.items() if batch is not None}
    reused, taken = len(made), []
    missing = [shard for shard in mine if shard not in made]
    for turn, shard in enumerate(missing):
        done = 0

        def told(step: int, steps: int, loss: float, before: int = turn) -> None:
            nonlocal done
            done = step
            on_step(before * steps + step, len(missing) * steps, loss)

        made[shard] = source.make(seed, shard, told)
        taken.append(done)
        if store:
            store.save(source, shard, made[shard])
    everything = ranks.gathered((made, reused, taken))
    if not everything:
        return None
    shards = {shard: batch for each, _, _ in everything for shard, batch in each.items()}
    batches = [shards[shard] for shard in sorted(shards)]
    pixels = np.concatenate([batch.pixels for batch in batches])[:count]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    steps = [step for _, _, each in everything for step in each]
    return Synthesis(
        Batch(pixels, np.concatenate(labels)[:count] if labels else None),
        sum(each for _, each, _ in everything),
        float(np.mean(steps)) if steps else 0.0,
    )
