"""The handwritten digits that come with scikit-learn, as the reference model sees them.

8x8 images of 17 grey levels are enlarged to 32x32 pixels 0..255. One in four is held out, always the same
ones: the reference model never trained on them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

SIZE = 32
SPLIT_SEED = 0


def held_out() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [450, 1, 32, 32] and labels [450] that no training has seen."""
    return _part(slice(None, None, 4))


def training() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [1347, 1, 32, 32] and labels [1347]."""
    return _part([place for place in range(1797) if place % 4])


def normalize(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """What the model wants at its input: -1 for black, 1 for white."""
    return (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)


def _part(places: slice | list[int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = load_digits(return_X_y=True)
    # Shuffled first: in the file, the digits of one writer follow each other.
    chosen = np.random.default_rng(SPLIT_SEED).permutation(len(labels))[places]
    return np.stack([_enlarge(image) for image in images[chosen]])[:, None], labels[chosen].astype(np.int64)


def _enlarge(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    grey = np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
