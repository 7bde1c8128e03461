"""A few hundred images in CIFAR-10's binary layout, whose class shows in their colour, so that a
tiny network learns them."""

from pathlib import Path

import numpy as np

from ml.data.cifar10 import CLASSES, IMAGE_SHAPE


def write_dataset(folder: Path, *, train: int, test: int, seed: int = 0) -> Path:
    """Writes train.bin and test.bin with equally many images of each class; counts are multiples
    of ten."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(7).integers(40, 216, (len(CLASSES), IMAGE_SHAPE[0], 1, 1))
    for name, count in (("train.bin", train), ("test.bin", test)):
        labels = random.permutation(np.arange(count) % len(CLASSES))
        noise = random.integers(-40, 40, (count, *IMAGE_SHAPE))
        pixels = (colours[labels] + noise).astype(np.uint8)
        records = np.concatenate((labels[:, None].astype(np.uint8), pixels.reshape(count, -1)), 1)
        records.tofile(folder / name)
    return folder
