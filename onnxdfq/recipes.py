"""Named ways through the pipeline: how much a run does, from seconds to hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tuning = Literal["", "accurate", "gdfq", "qimera", "adadfq"]
PUBLISHED = ("gdfq", "qimera", "adadfq")  # that train a generator and the quantized graph in turn
PER_EPOCH = 200  # iterations, of the published schedules


@dataclass(frozen=True)
class Recipe:
    """source: of the images, see ``onnxdfq.images.sources``; with "procedural" torch is not imported. tuning: how the
    quantized graph learns, empty where it does not. iterations: of it, unless the user says otherwise. deciding: bits
    are chosen for each image, between levels."""

    name: str
    about: str
    source: str
    tuning: Tuning = ""
    iterations: int = 0
    deciding: bool = False


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("fast", "procedural images, no gradients, no torch: seconds", "procedural"),
        Recipe("balanced", "images inverted from the model itself: a minute or two", "inversion"),
        Recipe("accurate", "the quantized graph learns from more such images: minutes", "inversion", "accurate", 600),
        Recipe("qimera", "as published: a generator of images between classes, and the graph, in turn: hours",
               "inversion", "qimera", 2000),
        Recipe("adadfq", "as published: a generator that plays against the graph: hours", "inversion", "adadfq", 2000),
        Recipe("gdfq", "as published: the generator that the two before are compared with: hours", "inversion",
               "gdfq", 2000),
        Recipe("dynadfq", "levels of several bits, and for each image the one that is enough", "inversion",
               deciding=True),
    )
}  # fmt: skip
AUTO = "auto"
CHEAPEST_FIRST = ("fast", "balanced", "accurate")  # what "auto" tries
