"""Gradients of two processes, and a training that they share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from onnxdfq.images.ranks import ALONE
from onnxdfq.tune.data_parallel import average, average_gradients

TWO = """
import sys
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[2])
from conftest import made
from onnxdfq.images.ranks import joined
from onnxdfq.tune.checkpoint import Checkpoints
from onnxdfq.tune.data_parallel import average, average_gradients
from onnxdfq.tune.in_turn import train
from onnxdfq.tune.length import Length
from onnxdfq.tune.log import Log
from onnxdfq.tune.published import Settings

torch.set_num_threads(1)
folder = Path(sys.argv[1])
with joined() as ranks:
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3, 1))]
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (1 + 2 * ranks.rank)
    if ranks.rank == 0:
        parameters[1].grad = torch.ones(3, 1)
    average_gradients(parameters, ranks)
    assert parameters[0].grad.tolist() == [2.0, 4.0], parameters[0].grad
    assert parameters[1].grad.tolist() == [[0.5], [0.5], [0.5]], parameters[1].grad
    numbers = torch.tensor(float(ranks.rank))
    average([numbers], ranks)
    assert float(numbers) == 0.5
    trainee = made()
    done = train(
        trainee.subject, trainee.model, trainee.plan, trainee.gains, trainee.held_out, "adadfq", Length(12), 0,
        Log(folder / "log.jsonl"), Checkpoints(folder, "key"), ranks,
        settings=Settings("adadfq", 16, 1e-3, 4, width=8),
    )
    (folder / f"{ranks.rank}.onnx").write_bytes(done.model.SerializeToString(deterministic=True))
    (folder / f"{ranks.rank}.txt").write_text(f"{done.plan.tensors} {done.agreement_after} {done.failed}")
    assert "32 images each" in done.about, done.about
"""


def test_a_single_process_keeps_what_it_has() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    average_gradients([parameter], ALONE)
    assert parameter.grad is None
    numbers = torch.ones(2)
    average([numbers], ALONE)
    assert numbers.tolist() == [1, 1]


def test_two_processes_end_with_one_network_and_the_first_one_writes(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    root = Path(__file__).parents[3]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    ran = subprocess.run(
        [*start, str(script), str(tmp_path), str(Path(__file__).parent)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    assert (tmp_path / "log.jsonl").read_text().count("settings") == 1
    assert (tmp_path / "key.pt").exists()
