"""Features that separate right from wrong predictions without labels: confidence, agreement on
perturbed copies, and image statistics.

Disagreement on copies is the strongest sign of an error under shift (Jiang et al.
2022, "Assessing generalization of SGD via disagreement", arXiv:2106.13799).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

_LEAST = 1e-6  # smallest probability in a logarithm
_FAINTEST = 1e-3  # relative to white
_SMALLEST = 8  # minimum edge length for the measures
_CHUNK = 500  # images converted to floats at a time


def mirrored(images: Images) -> Images:
    return np.ascontiguousarray(images[:, :, ::-1])


def smoothed(images: Images) -> Images:
    """Smoothed by a binomial filter of 3 × 3 pixels: removes noise."""
    pixels = np.pad(images.astype(np.uint16), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = pixels[:, :-2] + 2 * pixels[:, 1:-1] + pixels[:, 2:]
    both = rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return ((both + 8) // 16).astype(np.uint8)


def sharpened(images: Images) -> Images:
    """Sharpened by adding half of what the binomial filter removes: counteracts blur."""
    pixels = images.astype(np.int16)
    return np.clip(pixels + (pixels - smoothed(images)) // 2, 0, 255).astype(np.uint8)


COPIES: tuple[Callable[[Images], Images], ...] = (mirrored, smoothed, sharpened)


def image_features(images: Images) -> Floats:
    """(N, F) for (N, H, W, 3): noise, fine structure, JPEG blocking, contrast, exposure; N >= 1."""
    return np.concatenate(
        [_image_features(images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)]
    )


def _image_features(images: Images) -> Floats:
    beyond = [(0, max(0, _SMALLEST - side)) for side in images.shape[1:3]]
    padded = np.pad(images, [(0, 0), *beyond, (0, 0)], mode="edge")
    pixels = padded.astype(np.float32) / np.float32(255)
    grey: Plane = pixels.mean(3, dtype=np.float32)
    chroma = pixels[..., 0] - pixels[..., 1]
    fine, coarse = _second_difference(grey), _second_difference(_halved(grey))
    colour = _second_difference(chroma)
    down, right = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=2))
    slope = down.mean((1, 2)) + right.mean((1, 2))
    bright = grey[:, 1:-1, 1:-1] > np.median(grey, (1, 2))[:, None, None]
    dark_noise = np.where(bright, 0, fine).sum((1, 2)) / np.maximum((~bright).sum((1, 2)), 1)
    bright_noise = np.where(bright, fine, 0).sum((1, 2)) / np.maximum(bright.sum((1, 2)), 1)
    logs = [
        np.median(fine, (1, 2)),  # Immerkaer 1996, with the median: less sensitive to edges
        np.quantile(fine, 0.1, (1, 2)),
        fine.mean((1, 2)),
        np.median(colour, (1, 2)),
        coarse.mean((1, 2)),
        slope,
        dark_noise,
        bright_noise,
        grey.std((1, 2)),
        pixels.std(3).mean((1, 2)),
        np.abs(np.diff(grey, 2, axis=1)).mean((1, 2)),
        np.abs(np.diff(grey, 2, axis=2)).mean((1, 2)),
    ]
    plain = [
        grey.mean((1, 2)),
        np.quantile(grey, 0.05, (1, 2)),
        np.quantile(grey, 0.95, (1, 2)),
        (images == 255).mean((1, 2, 3)),
        _blockiness(down, 1) + _blockiness(right, 2),
    ]
    return np.stack([*(np.log(value + _FAINTEST) for value in logs), *plain], 1).astype(np.float64)


def _second_difference(plane: Plane) -> Plane:
    rows = plane[:, 2:] - 2 * plane[:, 1:-1] + plane[:, :-2]
    found: Plane = np.abs(rows[:, :, 2:] - 2 * rows[:, :, 1:-1] + rows[:, :, :-2])
    return found


def _halved(plane: Plane) -> Plane:
    even = plane[:, : plane.shape[1] // 2 * 2, : plane.shape[2] // 2 * 2]
    quarters = even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]
    found: Plane = quarters / np.float32(4)
    return found


def _blockiness(steps: Plane, axis: int) -> NDArray[np.float64]:
    """Log ratio of steps across JPEG's 8-pixel block borders to those next to them."""
    at = np.arange(steps.shape[axis]) % 8 == 7
    if not at.any():
        return np.zeros(len(steps))
    across = np.compress(at, steps, axis).mean((1, 2))
    beside = np.compress(~at, steps, axis).mean((1, 2))
    found: NDArray[np.float64] = np.log((across + _FAINTEST) / (beside + _FAINTEST))
    return found


def answer_features(
    probabilities: NDArray[np.floating], copies: list[NDArray[np.floating]]
) -> Floats:
    """(N, G) from (N, K) predictions and the predictions for each of `COPIES`."""
    p = np.asarray(probabilities, np.float64)
    rows, answer = np.arange(len(p)), p.argmax(1)
    ranked = np.sort(p, 1)
    columns = [
        _logit(ranked[:, -1]),
        ranked[:, -1] - ranked[:, -2],
        -(p * np.log(np.maximum(p, _LEAST))).sum(1),
    ]
    for copy in copies:
        q = np.asarray(copy, np.float64)
        columns += [
            _logit(q[rows, answer]),
            (q.argmax(1) == answer).astype(float),
            np.abs(p - q).sum(1),
        ]
    columns.append(_logit(np.mean([p, *copies], 0)[rows, answer]))
    return np.stack(columns, 1)


def _logit(p: Floats) -> Floats:
    bounded = np.clip(p, _LEAST, 1 - _LEAST)
    return np.log(bounded / (1 - bounded))
