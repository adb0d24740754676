"""Which recipe "auto" ends with, and what it says of the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from onnxdfq.cheapest import cheapest
from onnxdfq.config import Options
from onnxdfq.recipes import CHEAPEST_FIRST

ASKED = Options(recipe="accurate", iterations=7, log=Path("x.jsonl"), checkpoints=Path("kept"), seed=3, bits=4)


class Fake:
    """Runs that agree so well, target by target, for one recipe after the other."""

    def __init__(self, *agreements: tuple[float | None, ...]) -> None:
        self.agreements = dict(zip(CHEAPEST_FIRST, agreements, strict=False))
        self.options: list[Options] = []

    def __call__(self, options: Options) -> SimpleNamespace:
        self.options.append(options)
        tops = self.agreements[options.recipe]
        targets = {str(k): SimpleNamespace(agreement=SimpleNamespace(top1=top)) for k, top in enumerate(tops)}
        return SimpleNamespace(recipe=options.recipe, report=SimpleNamespace(targets=targets, notices=["other"]))


WORDS = "recipe {} chosen by agreement on held-out images: {}; {}"


@pytest.mark.parametrize(
    ("agreements", "runs", "said"),
    [
        ([(99.0,)], 1, ("fast", "fast 99.0 %", "98 % wanted")),
        ([(98.0,)], 1, ("fast", "fast 98.0 %", "98 % wanted")),
        ([(97.9,), (98.5,)], 2, ("balanced", "fast 97.9 %, balanced 98.5 %", "98 % wanted")),
        ([(50.0,), (60.0,), (99.0,)], 3, ("accurate", "fast 50.0 %, balanced 60.0 %, accurate 99.0 %", "98 % wanted")),
        ([(99.0, 90.0), (98.0, 98.0)], 2, ("balanced", "fast 90.0 %, balanced 98.0 %", "98 % wanted")),
        ([(50.0,), (70.0,), (60.0,)], 3,
         ("balanced", "fast 50.0 %, balanced 70.0 %, accurate 60.0 %", "98 % wanted, which none reached")),
        ([(70.0,), (70.0,), (70.0,)], 3,
         ("accurate", "fast 70.0 %, balanced 70.0 %, accurate 70.0 %", "98 % wanted, which none reached")),
        ([(None,), (None,), (None,)], 3,
         ("accurate", "fast unknown, balanced unknown, accurate unknown", "98 % wanted, which none reached")),
        ([(0.0,), (None,), (None,)], 3,
         ("fast", "fast 0.0 %, balanced unknown, accurate unknown", "98 % wanted, which none reached")),
    ],
)  # fmt: skip
def test_the_first_that_is_good_enough_else_the_nearest(agreements, runs, said) -> None:
    fake = Fake(*agreements)
    done = cheapest(fake, ASKED, 98.0)
    assert len(fake.options) == runs
    assert done.recipe == said[0]
    assert done.report.notices == [WORDS.format(*said), "other"]


def test_options_of_learning_reach_the_recipe_that_learns_alone() -> None:
    fake = Fake((0.0,), (0.0,), (0.0,))
    cheapest(fake, ASKED, 98.0)
    assert [each.recipe for each in fake.options] == list(CHEAPEST_FIRST)
    assert fake.options[-1] == ASKED
    for each in fake.options[:-1]:
        assert (each.iterations, each.epochs, each.log, each.checkpoints) == (None, None, None, None)
        assert (each.seed, each.bits) == (3, 4)
