"""Blocks learn one by one what the model has between them."""

from __future__ import annotations

from dataclasses import replace

import onnx_graphsurgeon as gs
import pytest
import torch
from torch.nn import functional

from onnxdfq.images.teacher import Teacher
from onnxdfq.tune.blocks import find_blocks
from onnxdfq.tune.reconstruct import Reconstruction, reconstruct
from onnxdfq.tune.segment import between
from onnxdfq.tune.student import Student
from tests.onnxdfq.tune.planned import smooth


class Room:
    """A classifier of three layers, its blocks, and images."""

    def __init__(self, made, eight: tuple[str, ...] = ()) -> None:
        tensors = dict(made.plan.tensors)
        for name in eight:
            scale = tuple(each * 3 / 255 if name == "r" else each / 127 for each in tensors[name].scale)
            tensors[name] = replace(tensors[name], bits=8, codes=None, scale=scale)
        subject = replace(made.subject, model=made.model)
        self.teacher = Teacher(subject, {}, size=8)
        plan = replace(made.plan, tensors=tensors)
        self.student = Student(made.model, plan, frozenset({"b2", "b3"}), subject.into.shapes(8), torch.device("cpu"))
        self.student.module.eval()
        self.blocks = find_blocks(gs.import_onnx(made.model), {"first", "second", "last"})
        self.image = torch.from_numpy(smooth(32)) / 255

    def run(self, iterations: int = 60, seed: int = 0, **options) -> None:
        generator = torch.Generator().manual_seed(seed)
        work = Reconstruction(self.student, self.teacher, 16)
        torch.manual_seed(0)  # of what ranges let pass
        reconstruct(work, self.blocks, self.image, iterations, generator, **options)

    @torch.no_grad()
    def errors(self) -> list[float]:
        """Of each block alone, reading what the float model has."""
        found = []
        for block in self.blocks:
            x = torch.cat([between(self.teacher.network, "x", block.start)(*self.teacher.inputs(part))
                           if block.start != "x" else self.teacher.inputs(part)[0]
                           for part in self.image.split(8)])  # fmt: skip
            both = (self.teacher.network, self.student.module)
            y, made = (torch.cat([between(gm, block.start, block.end)(part) for part in x.split(8)]) for gm in both)
            found.append(float(functional.mse_loss(made, y) / y.var()))
        return found

    def state(self) -> dict[str, torch.Tensor]:
        return {name: each.clone() for name, each in self.student.module.state_dict().items()}


def test_errors_of_all_blocks_fall(trainee) -> None:
    room = Room(trainee(2))
    assert [(block.start, block.end) for block in room.blocks] == [("x", "r"), ("r", "t"), ("t", "y")]
    before, done, losses = room.errors(), [], []
    room.run(on_block=done.append, on_step=losses.append)
    assert done == [0, 1, 2]
    assert len(losses) == 180
    for old, new in zip(before, room.errors(), strict=True):
        assert new < 0.8 * old


def test_blocks_of_eight_bits_are_left_as_they_are(trainee) -> None:
    room = Room(trainee(2), eight=("w1", "r"))
    assert "r" in room.student.ranges
    before, losses, done = room.state(), [], []
    parameters = {id(each): name for name, each in room.student.module.named_parameters()}
    held = {parameters[id(each)] for each in room.student.weights["w1"].parameters()}
    room.run(20, on_step=losses.append, on_block=done.append)
    after = room.state()
    changed = {name for name, each in after.items() if not torch.equal(each, before[name])}
    assert changed
    assert not changed & held
    assert (len(losses), done) == (40, [0, 1, 2])


def test_nothing_keeps_gradients_or_drops(trainee) -> None:
    room = Room(trainee(2), eight=("w1", "r"))
    room.run(2)
    assert not any(each.requires_grad or each.grad is not None for each in room.student.module.parameters())
    assert all(each.dropped == 0 for each in room.student.ranges.values())
    assert not room.student.module.training


def test_blocks_before_the_first_have_learned_already(trainee) -> None:
    room, done, losses = Room(trainee(2)), [], []
    before = room.student.weights["w1"].steps.clone()
    room.run(5, first=1, on_block=done.append, on_step=losses.append)
    assert (done, len(losses)) == ([1, 2], 10)
    assert torch.equal(room.student.weights["w1"].steps, before)


def test_equal_seeds_give_equal_states(trainee) -> None:
    states = []
    for seed in (0, 0, 1):
        room = Room(trainee(2))
        room.run(5, seed)
        states.append(room.state())
    first, again, other = states
    assert all(torch.equal(each, again[name]) for name, each in first.items())
    assert not all(torch.equal(each, other[name]) for name, each in first.items())


def test_memory_is_kept_to_by_fewer_images(trainee, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxdfq.tune import reconstruct as module

    sizes = []
    monkeypatch.setattr(module, "MEMORY", 2 * 8 * 8 * 8 * 8 * 4)  # two batches of eight images, eight channels
    original = module._Training.__init__

    def watched(self, work, block, x, *rest) -> None:
        sizes.append(len(x))
        original(self, work, block, x, *rest)

    monkeypatch.setattr(module._Training, "__init__", watched)
    Room(trainee(2)).run(1)
    assert sizes == [16, 16, 16]


def test_no_blocks_are_no_error(trainee) -> None:
    room = Room(trainee(2))
    room.blocks, before = [], room.state()
    room.run(3)
    assert all(torch.equal(each, before[name]) for name, each in room.state().items())
