"""Images unseen by a run, clean or corrupted, as traffic for a rehearsal: a golden set of its
dataset's training images that were used neither for training nor for validation.

  bazel run //ml/drift:stream -- runs/<folder> clean.zip --images 2000
  bazel run //ml/drift:stream -- runs/<folder> noisy.zip --skip 2000 --corruption noise:3

The run needs `data.train_size=…` below the number of images. The order is random but fixed, so
parts selected by `--skip` and `--images` are disjoint.

Exit codes: 0 written, 2 the run or the options cannot be used.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image

from common.command_line import command_parser
from common.files import user_path
from common.golden import GoldenImage, write_golden_set
from ml.data.checks import checked_part, open_data
from ml.data.cifar10 import DatasetError, stratified_split
from ml.drift.corruptions import CorruptionError, corrupt, parse_corruption
from ml.runs.folder import ResumeError, RunFolder


def unseen(cfg: DictConfig) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """(N, H, W, 3) images, labels and class names that a run did not use, in random order.

    Raises:
        DatasetError: it used all images.
    """
    data = open_data(cfg)
    if data.train_size is None:
        raise DatasetError("the run has seen all images: train one with data.train_size=…")
    pixels, labels = checked_part(data, "train")
    train, _ = data.divide(labels)
    rest, _ = stratified_split(labels[train], data.train_size, data.seed)
    places = np.random.default_rng(data.seed).permutation(train[rest])
    images = np.ascontiguousarray(pixels[places].transpose(0, 2, 3, 1))
    return images, labels[places], tuple(data.classes)


def write(
    path: Path,
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: Sequence[str],
) -> None:
    """Writes (N, H, W, 3) images as PNG with their class names."""

    def png(pixels: NDArray[np.uint8]) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        return file.getvalue()

    pairs = zip(images, labels, strict=True)
    write_golden_set(path, name, [GoldenImage(png(image), classes[k]) for image, k in pairs])


def main(arguments: Sequence[str]) -> int:
    parser = command_parser("//ml/drift:stream", __doc__)
    add = parser.add_argument
    add("run", type=user_path, help="run folder")
    add("out", type=user_path, help="golden set to write")
    add("--images", type=int, default=1000, help="maximum number of images (%(default)s)")
    add("--skip", type=int, default=0, help="skip this many images (%(default)s)")
    add("--corruption", metavar="KIND:SEVERITY", help="as for //ml:drift")
    options = parser.parse_args(arguments)
    try:
        changed = parse_corruption(options.corruption) if options.corruption else None
        images, labels, classes = unseen(RunFolder(options.run).load_config())
        part = slice(options.skip, options.skip + options.images)
        images, labels = images[part], labels[part]
        if not len(images):
            raise DatasetError(f"--skip {options.skip} leaves no image")
        if changed:
            images = corrupt(images, *changed, seed=options.skip)
        name = f"unseen, {options.corruption or 'clean'}"
        write(options.out, name, images, labels, classes)
    except (CorruptionError, DatasetError, ResumeError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 2
    print(f"{options.out}: {len(images):,} images")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
