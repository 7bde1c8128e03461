"""The common corruptions of CIFAR-10-C, in NumPy and Pillow.

Kinds, severities and parameters are those of Hendrycks & Dietterich 2019, arXiv:1903.12261, as in
their make_cifar_c.py. One difference: motion blur moves by whole pixels along its line.
"""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]

SEVERITIES = (1, 2, 3, 4, 5)


class CorruptionError(ValueError):
    """Unknown corruption or severity; the message lists valid ones."""


def corrupt(images: Images, kind: str, severity: int, seed: int = 0) -> Images:
    """Corrupted copies of (N, H, W, 3) RGB images; equal arguments give equal pixels.

    Args:
        kind: one of `CORRUPTIONS`.
        severity: 1 (hardly visible) to 5.

    Raises:
        CorruptionError: an unknown kind or severity.
    """
    if kind not in CORRUPTIONS:
        raise CorruptionError(f"no corruption {kind!r}, expected one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise CorruptionError(f"severity is {severity}, expected 1 to 5")
    function, parameters = CORRUPTIONS[kind]
    return function(images, parameters[severity - 1], np.random.default_rng(seed))


def parse_corruption(text: str) -> tuple[str, int]:
    """Kind and severity of ``noise:3`` (without a number, severity 3).

    Raises:
        CorruptionError: an unknown kind or severity.
    """
    kind, _, severity = text.partition(":")
    kind = ALIASES.get(kind, kind)
    if kind not in CORRUPTIONS:
        known = ", ".join([*CORRUPTIONS, *ALIASES])
        raise CorruptionError(f"no corruption {kind!r}, expected one of {known}")
    if (severity or "3") not in map(str, SEVERITIES):
        raise CorruptionError(f"severity is {severity!r}, expected 1 to 5, as in {kind}:3")
    return kind, int(severity or 3)


def _gaussian_noise(images: Images, std: float, random: np.random.Generator) -> Images:
    return _bytes(_scaled(images) + std * random.standard_normal(images.shape, np.float32))


def _shot_noise(images: Images, photons: float, random: np.random.Generator) -> Images:
    return _bytes(random.poisson(_scaled(images) * photons).astype(np.float32) / photons)


def _gaussian_blur(images: Images, sigma: float, _: np.random.Generator) -> Images:
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    pixels = _scaled(images)
    steps = range(-reach, reach + 1)
    rows = sum(w * shifted(pixels, step, 0) for w, step in zip(weights, steps, strict=True))
    return _bytes(sum(w * shifted(rows, 0, step) for w, step in zip(weights, steps, strict=True)))


def _motion_blur(
    images: Images, radius_sigma: tuple[int, float], random: np.random.Generator
) -> Images:
    """One-sided Gaussian weights along a line, at whole degrees of -45..45 for each image."""
    radius, sigma = radius_sigma
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    degrees = random.integers(-45, 46, len(images))
    blurred = np.empty_like(images)
    for degree in np.unique(degrees):
        chosen = degrees == degree
        down, right = math.sin(math.radians(degree)), math.cos(math.radians(degree))
        pixels = _scaled(images[chosen])
        blurred[chosen] = _bytes(
            sum(
                w * shifted(pixels, round(step * down), round(step * right))
                for step, w in enumerate(weights)
            )
        )
    return blurred


def _contrast(images: Images, factor: float, _: np.random.Generator) -> Images:
    pixels = _scaled(images)
    means = pixels.mean(axis=(1, 2), keepdims=True)
    return _bytes((pixels - means) * factor + means)


def _brightness(images: Images, added: float, _: np.random.Generator) -> Images:
    """Adds to V in HSV, keeping hue and saturation: the same factor for all three channels."""
    pixels = _scaled(images)
    value = pixels.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + added, 1)
    grey = np.broadcast_to(brighter, pixels.shape)  # black has no hue
    return _bytes(np.where(value > 0, pixels * (brighter / np.maximum(value, 1e-6)), grey))


def _jpeg(images: Images, quality: int, _: np.random.Generator) -> Images:
    return np.stack([_through_jpeg(image, quality) for image in images])


def _through_jpeg(image: Images, quality: int) -> Images:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _scaled(images: Images) -> Floats:
    return images.astype(np.float32) / np.float32(255)


def _bytes(pixels: Any) -> Images:
    return np.asarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def shifted(pixels: Any, down: int, right: int) -> Any:
    """(N, H, W, 3) images shifted by whole pixels, replicating the border."""
    rows = np.clip(np.arange(pixels.shape[1]) - down, 0, pixels.shape[1] - 1)
    columns = np.clip(np.arange(pixels.shape[2]) - right, 0, pixels.shape[2] - 1)
    return pixels[:, rows][:, :, columns]


_Function = Callable[[Images, Any, np.random.Generator], Images]

# Name -> function and its parameter at severities 1 to 5.
CORRUPTIONS: dict[str, tuple[_Function, tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),  # standard deviation
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),  # photons at white
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),  # sigma in pixels
    "motion_blur": (_motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),  # factor
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),  # added to V
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),  # JPEG quality
}
ALIASES = {"noise": "gaussian_noise", "blur": "gaussian_blur"}
