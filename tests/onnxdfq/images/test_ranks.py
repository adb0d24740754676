"""Several processes: who makes what, and that nobody can tell from the images; one file for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from onnxdfq.images.ranks import Ranks, joined


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_shard_is_made_by_one_process_and_the_work_is_shared(count: int) -> None:
    shares = [list(Ranks(rank, count).mine(range(10))) for rank in range(count)]
    assert sorted(shard for share in shares for shard in share) == list(range(10))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_one_process_talks_to_nobody() -> None:
    assert Ranks().agreed("value") == "value"
    assert Ranks().gathered("value") == ["value"]


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks == Ranks(0, 1, 0)


def test_two_processes_write_the_bytes_that_one_writes(small: Path) -> None:
    model = onnx.load(small)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4  # shards of 64: three of them for 130 images
    onnx.save(model, small)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    synth = ["-m", "onnxdfq.cli", "synth", small, "-n", "130", "--effort", "1", "--device", "cpu", "--quiet"]
    folder, environment = small.parent, os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [*before, *synth, "--cache", folder / f"{name} cache", "-o", folder / f"{name}.npz"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for before, name in ((start, "two"), ([sys.executable], "one"))
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert (folder / "two.npz").read_bytes() == (folder / "one.npz").read_bytes()
    together = " ".join(said[0][0].split())
    assert together.count("shared by 2 processes") == 1
    assert "shared" not in said[1][0]
    shards = [
        {path.name: path.read_bytes() for path in folder.glob(f"{name} cache/*/*/*.npz")} for name in ("one", "two")
    ]
    assert shards[0] == shards[1]
    assert len(shards[0]) == 3


def test_two_processes_quantize_into_one_file(small: Path) -> None:
    made, kept, report = (small.parent / name for name in ("made.onnx", "kept", "report.json"))
    # "--", for torchrun would take --log for one of its own
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    ran = subprocess.run(
        [*start, "onnxdfq.cli", "quantize", small, "--recipe", "accurate", "--iterations", "2", "--bits", "4",
         "--source", "procedural", "--target", "ort-cpu", "--rounding", "nearest", "--device", "cpu", "--checkpoints",
         kept, "--log", small.parent / "x.jsonl", "--report", report, "-o", made, "--quiet"],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    model = onnx.load(made)
    onnx.checker.check_model(model)
    assert "DequantizeLinear" in {node.op_type for node in model.graph.node}
    entry = json.loads(report.read_text())["targets"]["ort-cpu"]
    assert "blocks and the whole learned for 2 iterations" in entry["learning"]
    assert len(list(kept.iterdir())) == 1
    lines = (small.parent / "x.jsonl").read_text().splitlines()
    assert sum("settings" in line for line in lines) == 1
    assert " ".join(ran.stdout.split()).count("the whole learned for") == 1, "one process speaks"
