"""Which sources of images there are, what each needs of a model, and how many steps each takes for which effort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxdfq.engine.operators import unsupported
from onnxdfq.images.source import Source, Subject


@dataclass(frozen=True)
class Kind:
    """A source as a user chooses it. lacks: what it misses in a model, empty if nothing. build: the source for so many
    steps; imports torch only when called. steps: by effort, 1 to 5, empty for a source that takes none."""

    name: str
    about: str
    lacks: Callable[[Subject], str]
    build: Callable[[Subject, int], Source]
    steps: tuple[int, ...] = ()


def _procedural(subject: Subject, steps: int) -> Source:
    from onnxdfq.images.drawn import Procedural

    return Procedural(subject)


def _inversion(subject: Subject, steps: int) -> Source:
    from onnxdfq.images.inversion import Inversion

    return Inversion(subject, steps=steps)


def _gdfq(subject: Subject, steps: int) -> Source:
    from onnxdfq.images.generators.gdfq import Gdfq

    return Gdfq(subject, steps=steps)


def _qimera(subject: Subject, steps: int) -> Source:
    from onnxdfq.images.generators.qimera import Qimera

    return Qimera(subject, steps=steps)


def _adadfq(subject: Subject, steps: int) -> Source:
    from onnxdfq.images.generators.adadfq import AdaDfq

    return AdaDfq(subject, steps=steps)


def _gradients(subject: Subject) -> str:
    """Why there are no gradients from the model to its images; empty if there are."""
    if subject.into.dtype.kind == "u":
        return "there is no gradient to a uint8 input"
    lines = unsupported(subject.model)
    return f"the torch engine can't run the model: {lines[0]}" if lines else ""


def _guidance(subject: Subject) -> str:
    if not subject.guides:
        return "the model has neither BatchNormalization nor class scores to lead images by"
    return _gradients(subject)


def _classes(subject: Subject) -> str:
    if not subject.guides.classes:
        return "the model is no classifier: its first output is no vector of scores"
    return _gradients(subject)


STARTS_FROM_IMAGES = "inversion"  # that the user has; the others begin with nothing

GENERATOR_STEPS = (40, 80, 250, 1000, 3000)

KINDS = {
    kind.name: kind
    for kind in (
        Kind("procedural", "drawn, without the model: seconds", lambda subject: "", _procedural),
        Kind("inversion", "pixels led by statistics and classes", _guidance, _inversion, (20, 40, 100, 300, 1000)),
        Kind("gdfq", "from a generator that learns classes and statistics", _classes, _gdfq, GENERATOR_STEPS),
        Kind("qimera", "the same, with images between classes", _classes, _qimera, GENERATOR_STEPS),
        Kind("adadfq", "the same, on which a quantized copy errs", _classes, _adadfq, GENERATOR_STEPS),
    )
}


def rung(kind: Kind, subject: Subject) -> str:
    """What leads the images, on the ladder from statistics of training down to nothing."""
    if not kind.steps:
        return "3 of 3: nothing of the model leads the images"
    if subject.guides.statistics:
        return "1 of 3: statistics that BatchNormalization kept"
    return "2 of 3: no BatchNormalization is left" + (", only classes lead" if kind.name != "inversion" else "")
