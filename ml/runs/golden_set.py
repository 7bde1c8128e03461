"""Makes a release's golden set from test images, equally many of each class.

bazel build //infra/release:golden_set                                      of CIFAR-10
bazel run //infra/release:make_golden_set -- runs/<folder> golden.zip       of a model's own dataset

Files are in the formats that callers send, PNG and WebP in turn and every tenth JPEG, so a version
that cannot read one of them loses a tenth of the images at least.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.command_line import command_parser
from common.files import user_path
from common.golden import GoldenImage, write_golden_set
from common.model.artifact import ArtifactError, read_artifact
from ml.data.cifar10 import CLASSES, DatasetError, read_records
from ml.runs.datasets import dataset_of_file


def golden_images(
    images: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str], count: int
) -> list[GoldenImage]:
    """The first `count` / K of (N, H, W, 3) images of each class, in order."""
    each = count // len(classes)
    places = np.sort(
        np.concatenate([np.flatnonzero(labels == k)[:each] for k in range(len(classes))])
    )
    return [
        GoldenImage(_encode(images[place], *_format(number)), classes[labels[place]])
        for number, place in enumerate(places)
    ]


def of_source(source: Path, count: int) -> tuple[str, list[GoldenImage]]:
    """The source's name and images: CIFAR-10's test.bin, or the dataset of a run folder.

    Raises:
        ArtifactError, DatasetError, OSError: they cannot be read, or do not match the model.
    """
    if source.is_dir():
        model = source / "model.onnx"
        dataset = dataset_of_file(model, read_artifact(model.read_bytes()))
        return dataset.name, golden_images(*dataset.read("test"), dataset.classes, count)
    found = read_records(source)
    pixels = found.images.transpose(0, 2, 3, 1)
    return "CIFAR-10", golden_images(pixels, found.labels, CLASSES, count)


_Format = tuple[str, dict[str, Any]]
_LOSSLESS: tuple[_Format, ...] = (("PNG", {}), ("WEBP", {"lossless": True}))
# JPEG changes the colour noise of such small images, which the service would report as drift: at
# this quality a tenth of JPEG moves it by a KS distance of 0.05, half of what drift allows.
_LOSSY: _Format = ("JPEG", {"quality": 100, "subsampling": 0})
_ONE_IN = 10


def _format(number: int) -> _Format:
    """The file format of the image at a place of the set."""
    return _LOSSY if number % _ONE_IN == _ONE_IN - 1 else _LOSSLESS[number % len(_LOSSLESS)]


def _encode(pixels: NDArray[np.uint8], kind: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **options)
    return file.getvalue()


if __name__ == "__main__":
    parser = command_parser("//infra/release:make_golden_set", __doc__)
    parser.add_argument("source", type=user_path, help="CIFAR-10's test.bin, or a run folder")
    parser.add_argument("out", type=user_path)
    parser.add_argument(
        "--images", type=int, default=1000, help="maximum number of images (%(default)s)"
    )
    options = parser.parse_args()
    try:
        name, images = of_source(options.source, options.images)
    except (ArtifactError, DatasetError, OSError) as exc:
        print(exc, file=sys.stderr)
        sys.exit(2)
    write_golden_set(options.out, f"{name} test, {len(images)} images", images)
