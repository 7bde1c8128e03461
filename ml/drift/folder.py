"""Images of a folder, brought to the model's size as the service does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ml.drift.observed import InputError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def image_files(folder: Path) -> list[Path]:
    """Image files in a folder and those below it, sorted; what is hidden is left alone.

    Raises:
        InputError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: --images takes a folder of image files")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise InputError(f"{folder} holds no image: expected files ending in {', '.join(ENDINGS)}")
    return files


def read_images(
    files: list[Path], size: tuple[int, int]
) -> Iterator[tuple[Path, NDArray[np.uint8] | str]]:
    """Each file with its (H, W, 3) RGB pixels, or with why it has none."""
    for path in files:
        try:
            yield path, read_image(path, size)
        except Exception as exc:  # damaged files meet every kind of exception within Pillow
            yield path, f"unreadable ({type(exc).__name__})"


def read_image(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The largest centred part of the proportions of `size`, (height, width), at that size."""
    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
            upright = Image.alpha_composite(white, upright)
        rgb = upright.convert("RGB")
        if rgb.size != size[::-1]:
            rgb = ImageOps.fit(rgb, size[::-1], Image.Resampling.BICUBIC)
        return np.asarray(rgb)
