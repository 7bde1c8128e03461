"""Random shifts as a camera or pipeline may cause, from which the estimate of live accuracy learns.

They differ from the corruptions with which the estimate is evaluated
(`ml/drift/corruptions.py`): other formulas, continuous strengths, and combinations.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
_SHARES = (0.15, 0.7, 0.15)  # shares of images with no, one and two shifts
_Shift = Callable[[Floats, np.random.Generator], Floats]


def shifted(
    images: Images, seed: int, kinds: Sequence[str] | None = None
) -> tuple[Images, NDArray[np.bool_]]:
    """Copies of (N, H, W, 3) images, each with none, one or two random shifts.

    Args:
        kinds: subset of `SHIFTS` to use (default: all).

    Returns:
        The copies, and (N, len(SHIFTS)) the kinds applied to each.
    """
    names = list(SHIFTS)
    allowed = [names.index(kind) for kind in (names if kinds is None else kinds)]
    random = np.random.default_rng(seed)
    changed, applied = images.copy(), np.zeros((len(images), len(names)), bool)
    for number in range(len(images)):
        steps = random.choice(3, p=_SHARES)
        chosen = random.choice(allowed, min(steps, len(allowed)), replace=False)
        pixels = images[number].astype(np.float32) / np.float32(255)
        for kind in chosen:
            pixels = SHIFTS[names[kind]](pixels, random)
        if len(chosen):
            applied[number, chosen] = True
            changed[number] = (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
    return changed, applied


def _noise(pixels: Floats, random: np.random.Generator) -> Floats:
    """Sensor noise, read noise plus photon noise (Foi et al. 2008, "Practical Poissonian-Gaussian
    noise modeling and fitting"), at full or half colour resolution.
    """
    read, photons = _between(random, 0.003, 0.12), _between(random, 0.003, 0.15)
    weight = random.choice([0.0, 1.0, random.random()])
    variance = weight * read**2 + (1 - weight) * photons**2 * np.clip(pixels, 0, 1)
    colour = random.standard_normal(pixels.shape, np.float32)
    if random.random() < 0.2:
        colour = 0.8 * random.standard_normal((*pixels.shape[:2], 1), np.float32) + 0.6 * colour
    return pixels + np.sqrt(variance).astype(np.float32) * colour


def _blur(pixels: Floats, random: np.random.Generator) -> Floats:
    """An anisotropic Gaussian kernel: defocus or motion."""
    long = _between(random, 0.25, 3.0)
    short = long if random.random() < 0.5 else long * random.uniform(0.05, 0.5)
    angle = random.uniform(0, np.pi)
    y, x = np.fft.fftfreq(pixels.shape[0] * 2)[:, None], np.fft.fftfreq(pixels.shape[1] * 2)[None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    response = np.exp(-2 * np.pi**2 * ((long * along) ** 2 + (short * across) ** 2))
    height, width = pixels.shape[:2]
    padded = np.pad(
        pixels,
        ((height // 2, height - height // 2), (width // 2, width - width // 2), (0, 0)),
        mode="symmetric",
    )
    blurred = np.fft.ifft2(np.fft.fft2(padded, axes=(0, 1)) * response[..., None], axes=(0, 1)).real
    found: Floats = blurred[
        height // 2 : height // 2 + height, width // 2 : width // 2 + width
    ].astype(np.float32)
    return found


def _contrast(pixels: Floats, random: np.random.Generator) -> Floats:
    """Haze or another tone curve: values drawn towards some grey, or away from it."""
    factor, grey = _between(random, 0.2, 1.4), random.uniform(0.3, 0.7)
    centre = grey if random.random() < 0.3 else float(pixels.mean())
    return centre + (pixels - centre) * np.float32(factor)


def _exposure(pixels: Floats, random: np.random.Generator) -> Floats:
    """A gain, a gamma or an offset for all channels."""
    kind = random.integers(3)
    if kind == 0:
        return pixels * np.float32(_between(random, 0.5, 2.0))
    if kind == 1:
        return np.clip(pixels, 0, 1) ** np.float32(_between(random, 0.5, 2.0))
    return pixels + np.float32(random.uniform(-0.25, 0.25))


def _compression(pixels: Floats, random: np.random.Generator) -> Floats:
    """JPEG of any quality, with full or half colour resolution."""
    buffer = io.BytesIO()
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))
    quality, subsampling = int(random.integers(25, 96)), int(random.choice([0, 2]))
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer).convert("RGB"), np.float32) / np.float32(255)


def _between(random: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


SHIFTS: dict[str, _Shift] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "exposure": _exposure,
    "compression": _compression,
}
