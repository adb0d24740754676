"""Shards on disk: they come back as they were, and whatever is not whole is as if it were not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from onnxdfq.errors import OnnxdfqError
from onnxdfq.images.source import Batch
from onnxdfq.images.store import Store, open_store
from tests.onnxdfq.images.numbered import SHAPE, Numbered


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path, b"model", {"seed": 0}, SHAPE)


def kept(store: Store) -> list[Path]:
    return sorted(path for path in store.folder.rglob("*") if path.is_file() and path.name != "about.json")


@pytest.mark.parametrize("shares", [False, True])
def test_a_shard_comes_back_as_it_was(store: Store, shares: bool) -> None:
    source = Numbered(shares=shares)
    batch = source.make(0, 7)
    store.save(source, 7, batch)
    found = store.load(source, 7)
    assert found is not None
    assert found.labels is not None
    assert batch.labels is not None
    assert found.pixels.dtype == batch.pixels.dtype
    assert found.labels.dtype == batch.labels.dtype
    np.testing.assert_array_equal(found.pixels, batch.pixels)
    np.testing.assert_array_equal(found.labels, batch.labels)
    assert store.load(source, 6) is None


def test_images_without_labels(store: Store) -> None:
    source = Numbered()
    store.save(source, 0, Batch(source.make(0, 0).pixels))
    found = store.load(source, 0)
    assert found is not None
    assert found.labels is None


def broken(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {
        "empty": b"",
        "torn": content[:middle],
        "without its end": content[:-1],
        "a bit turned": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        "compressed data broken": content[:120] + bytes(40) + content[160:],
        "not a zip": b"\x93NUMPY" + content,
        "text": b"<html>",
    }


@pytest.mark.parametrize("how", broken(bytes(range(200))))
def test_a_broken_file_is_no_shard(store: Store, how: str) -> None:
    source = Numbered(size=64)
    store.save(source, 0, source.make(0, 0))
    (file,) = kept(store)
    file.write_bytes(broken(file.read_bytes())[how])
    assert store.load(source, 0) is None
    store.save(source, 0, source.make(0, 0))
    assert store.load(source, 0) is not None


def other(source: Numbered, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    batch = source.make(0, 0)
    assert batch.labels is not None
    return {"pixels": batch.pixels.astype(np.uint8), "labels": batch.labels} | arrays


@pytest.mark.parametrize(
    "arrays",
    [
        other(Numbered(size=3)),
        other(Numbered(shape=(3, 5, 4))),
        other(Numbered(shape=(1, 4, 5))),
        other(Numbered(), labels=np.arange(3)),
        other(Numbered(), pixels=np.zeros((4, *SHAPE), np.float32)),
        other(Numbered(), pixels=np.zeros((), np.uint8)),
        {"images": np.zeros((4, *SHAPE), np.uint8)},
    ],
    ids=["size", "sides", "channels", "labels", "type", "no axis", "name"],
)
def test_a_shard_of_another_form_is_none(store: Store, arrays: dict[str, np.ndarray]) -> None:
    source = Numbered()
    store.save(source, 0, source.make(0, 0))
    (file,) = kept(store)
    np.savez(file, allow_pickle=False, **arrays)
    assert store.load(source, 0) is None


def test_steps_are_kept_apart(store: Store) -> None:
    few, many = Numbered(steps=20), Numbered(steps=40)
    store.save(few, 0, few.make(0, 0))
    assert store.load(many, 0) is None


def test_the_folder_hangs_on_the_model_and_every_setting(tmp_path: Path) -> None:
    settings = {"seed": 0, "source": "inversion"}
    folders = {
        open_store(tmp_path, model, each, SHAPE).folder
        for model, each in (
            (b"model", settings), (b"other", settings), (b"model", settings | {"seed": 1}),
            (b"model", settings | {"source": "gdfq"}), (b"model", settings | {"given": "0a"}),
        )
    }  # fmt: skip
    assert len(folders) == 5
    assert open_store(tmp_path, b"model", dict(reversed(settings.items())), SHAPE).folder in folders


def test_an_interrupted_write_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    source = Numbered()
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save(source, 0, source.make(0, 0))
    assert kept(store) == []


def test_a_reader_never_sees_half_of_what_several_write(store: Store) -> None:
    source = Numbered(size=64)
    batch = source.make(0, 0)

    def write() -> None:
        for _ in range(8):
            store.save(source, 0, batch)

    store.save(source, 0, batch)
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write) for _ in range(3)]
        reads = 0
        while reads < 5 or not all(writer.done() for writer in writers):
            found = store.load(source, 0)
            assert found is not None
            np.testing.assert_array_equal(found.pixels, batch.pixels)
            reads += 1
    assert [writer.result() for writer in writers] == [None] * 3
    assert len(kept(store)) == 1


def test_decisions_are_remembered(store: Store) -> None:
    assert store.remembered("schedule") is None
    store.remember("schedule", {"steps": 3})
    assert store.remembered("schedule") == {"steps": 3}
    (store.folder / "schedule.json").write_text('{"steps"')
    assert store.remembered("schedule") is None


def blocked_by_a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "cache"


@pytest.mark.parametrize("place", [blocked_by_a_file, lambda folder: blocked_by_a_file(folder).parent])
def test_a_place_that_cannot_be_written(place: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(OnnxdfqError, match=r"can't be written: .*give another --cache"):
        open_store(place(tmp_path), b"model", {}, SHAPE)
