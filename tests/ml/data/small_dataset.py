"""A few hundred images, in CIFAR-10's binary layout or as files, whose class shows in their colour,
so that a tiny network learns them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

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


def write_photos(folder: Path, classes: Sequence[str], *, each: int, seed: int = 0) -> Path:
    """Writes a subfolder for each class: PNG and JPEG files of differing sizes, in its colour."""
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(7).integers(40, 216, (len(classes), 3))
    for name, colour in zip(classes, colours, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = random.integers(-40, 40, (*random.integers(12, 40, 2), 3))
            kind = ("png", "jpg")[number % 2]
            image = Image.fromarray((colour + noise).astype(np.uint8))
            image.save(folder / name / f"{number}.{kind}")
    return folder
