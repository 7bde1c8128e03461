"""Writes the golden images anew: python3 -m tests.serve.golden.write, from the repository's root.

Each NAME.kind is a file as callers send it, NAME.expected.png what the model must see of it. Only a
change of common/images.py that is meant to change answers is a reason to run this.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from common.images import Codec

FOLDER = Path(__file__).parent
SIZE = (32, 32)
_ORIENTATION = 0x0112


def _picture(height: int, width: int) -> Image.Image:
    """A disc, a bar and a gradient: shapes that show a turn, a mirror and a shift of colours."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    red, green, blue = 255 * x, 255 * y, np.full_like(x, 60.0)
    disc = (x - 0.3) ** 2 + (y - 0.35) ** 2 < 0.03
    bar = (abs(y - 0.8) < 0.06) & (x > 0.5)
    red[disc], green[disc], blue[disc] = 250, 240, 30
    red[bar], green[bar], blue[bar] = 10, 20, 240
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def _with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    ramp = np.linspace(0, 255, image.width).astype(np.uint8)
    image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    return image


def _files() -> dict[str, bytes]:
    small, wide, tall = _picture(32, 32), _picture(60, 96), _picture(90, 50)
    grey16 = Image.fromarray(np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16))
    palette = small.quantize(16)
    made: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "exact": (small, "PNG", {}),
        "wide": (wide, "PNG", {}),
        "tall": (tall, "PNG", {}),
        "tiny": (_picture(5, 7), "PNG", {}),
        "grey": (wide.convert("L"), "PNG", {}),
        "grey_alpha": (_with_alpha(small).convert("LA"), "PNG", {}),
        "grey_16_bit": (grey16, "PNG", {}),
        "one_bit": (small.convert("1"), "PNG", {}),
        "alpha": (_with_alpha(wide), "PNG", {}),
        "palette": (palette, "PNG", {}),
        "palette_transparent": (palette, "PNG", {"transparency": 3}),
        "photo": (_picture(480, 640), "JPEG", {"quality": 60}),
        "progressive": (wide, "JPEG", {"progressive": True}),
        "grey_photo": (wide.convert("L"), "JPEG", {}),
        "cmyk": (wide.convert("CMYK"), "JPEG", {"quality": 90}),
        "lossy": (wide, "WEBP", {"quality": 60}),
        "lossless_alpha": (_with_alpha(small), "WEBP", {"lossless": True}),
        "film": (small, "GIF", {"save_all": True, "append_images": [tall.resize((32, 32))]}),
        "bitmap": (small, "BMP", {}),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        made[f"turned_{orientation}"] = (wide, "JPEG", {"exif": exif, "quality": 70})
    files = {}
    for name, (image, kind, options) in made.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        files[f"{name}.{kind.lower()}"] = file.getvalue()
    return files


def main() -> None:
    """Files, and what the codec of today makes of them."""
    codec = Codec(SIZE, max_pixels=1_000_000)
    for name, data in _files().items():
        (FOLDER / name).write_bytes(data)
        expected = FOLDER / f"{name.split('.')[0]}.expected.png"
        Image.fromarray(codec.decode(data)).save(expected, optimize=True)


if __name__ == "__main__":
    main()
