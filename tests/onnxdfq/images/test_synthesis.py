"""Images shard by shard: which ones they are hangs neither on their number nor on who made them when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxdfq.images.ranks import Ranks
from onnxdfq.images.source import Batch
from onnxdfq.images.store import Store
from onnxdfq.images.synthesis import Synthesis, synthesize
from tests.onnxdfq.images.numbered import SHAPE, Numbered


def images(source: Numbered, count: int, store: Store | None = None, seed: int = 0) -> Synthesis:
    made = synthesize(source, count, seed, store)
    assert made is not None
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", SHAPE)


def equal(one: Batch, other: Batch) -> bool:
    assert one.labels is not None
    assert other.labels is not None
    return np.array_equal(one.pixels, other.pixels) and np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("shares", [False, True])
def test_fewer_images_are_the_first_of_more(shares: bool) -> None:
    many = images(Numbered(shares=shares), 23).batch
    assert many.labels is not None
    assert len(many.pixels) == len(many.labels) == 23
    for count in (1, 4, 5, 12):
        few = images(Numbered(shares=shares), count).batch
        assert equal(few, Batch(many.pixels[:count], many.labels[:count]))


def test_images_come_in_order_of_their_shards_and_no_shard_is_made_in_vain() -> None:
    source = Numbered(size=4)
    made = images(source, 10)
    assert source.made == [0, 1, 2]
    assert made.batch.labels is not None
    assert made.batch.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert (made.reused, made.steps) == (0, 3)


def test_another_seed_gives_other_images() -> None:
    assert not np.array_equal(images(Numbered(), 4).batch.pixels, images(Numbered(), 4, seed=1).batch.pixels)


def test_what_the_store_has_is_not_made_again(store: Store) -> None:
    first, second = Numbered(), Numbered()
    few, more = images(first, 8, store), images(second, 16, store)
    assert (few.reused, more.reused) == (0, 2)
    assert second.made == [2, 3]
    assert equal(more.batch, images(Numbered(), 16).batch)
    again = images(Numbered(), 16, store)
    assert (again.reused, again.steps) == (4, 0)
    assert equal(again.batch, more.batch)


def test_a_run_killed_in_the_middle_of_a_shard_goes_on_to_the_same_images(store: Store) -> None:
    def kill(done: int, total: int, loss: float) -> None:
        if done == 8:  # the second of three steps of the third of five shards
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(Numbered(), 20, 0, store, on_step=kill)
    source = Numbered()
    resumed = images(source, 20, store)
    assert resumed.reused == 2
    assert source.made == [2, 3, 4]
    assert equal(resumed.batch, images(Numbered(), 20).batch)


def test_a_broken_shard_is_made_again(store: Store) -> None:
    whole = images(Numbered(), 12, store)
    broken = sorted(store.folder.rglob("*.npz"))[1]
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    source = Numbered()
    assert equal(images(source, 12, store).batch, whole.batch)
    assert source.made == [1]
    assert broken.read_bytes() == content


def test_steps_are_told_of_all_shards_together(store: Store) -> None:
    heard: list[tuple[int, int]] = []
    synthesize(Numbered(), 4, 0, store)
    synthesize(Numbered(), 12, 0, store, on_step=lambda done, total, loss: heard.append((done, total)))
    assert heard == [(done, 6) for done in range(1, 7)]  # the first shard is there already


class Together(Ranks):
    """Two processes, one after the other in this one."""

    left: list[Any] = []  # noqa: RUF012

    def gathered(self, value: Any) -> list[Any]:
        self.left.append(value)
        return list(self.left) if self.rank == 0 else []


@pytest.mark.parametrize("count", [3, 4, 9, 20])
def test_several_processes_make_the_same_images(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Together, "left", [])
    sources = Numbered(), Numbered(), Numbered()
    made: Sequence[Synthesis | None] = [
        synthesize(source, count, 0, ranks=Together(rank, 3)) for rank, source in reversed([*enumerate(sources)])
    ]
    assert made[:2] == [None, None]
    assert made[2] is not None
    assert sorted(shard for source in sources for shard in source.made) == list(range(-(-count // 4)))
    assert sources[1].made == [*range(-(-count // 4))][1::3]
    assert equal(made[2].batch, images(Numbered(), count).batch)
