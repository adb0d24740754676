"""Images to judge a quantized model by, that nothing was made of.

    alike   those held out when others calibrated   a model is sure about what was made for it: hardly one changes class
    mixed   s a + (1 - s) b of two of them          between two classes, where an error shows first
    drawn   see procedural.py                       of no class at all

Real images lie in between: which share of them changes class is neither that of the first nor that of the last. What
makes a graph better on one kind and worse on others is of no use, and all together notice.

Images that the user has are real ones, and judge alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxdfq.images.procedural import procedural

SHARES = 0.2, 0.8  # of the first of two images; nearer to 0 or 1 it is that image again


def judges(held_out: np.ndarray, others: int, seed: int) -> Mapping[str, np.ndarray]:
    """Pixels by kind, each [N, C, H, W] 0..255, whole numbers: those held out, and ``others`` of both other kinds."""
    rng = np.random.default_rng([seed, *b"judge"])
    count, channels, height, width = held_out.shape
    first = np.arange(others) % count
    second = (first + rng.integers(1, max(count, 2), others)) % count
    share = rng.uniform(*SHARES, (others, 1, 1, 1)).astype(np.float32)
    mixed = (share * held_out[first] + (1 - share) * held_out[second]).round()
    drawn = procedural(others, channels, height, width, rng)
    return {"alike": held_out, "mixed": mixed.astype(held_out.dtype), "drawn": drawn.astype(held_out.dtype)}
