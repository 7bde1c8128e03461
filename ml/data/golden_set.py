"""Makes the golden set of a release from CIFAR-10's test images, equally many of each class.

bazel build //infra/release:golden_set
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from common.golden import GoldenImage, write_golden_set
from ml.data.cifar10 import CLASSES, read_records


def golden_images(records: Path, count: int) -> list[GoldenImage]:
    """The first `count` / 10 of each class, in the file's order."""
    found = read_records(records)
    each = count // len(CLASSES)
    places = np.sort(
        np.concatenate([np.flatnonzero(found.labels == k)[:each] for k in range(len(CLASSES))])
    )
    return [
        GoldenImage(_png(found.images[place].transpose(1, 2, 0)), CLASSES[found.labels[place]])
        for place in places
    ]


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path, help="test.bin")
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    images = golden_images(options.records, options.images)
    write_golden_set(options.out, f"CIFAR-10 test, {len(images)} images", images)
