"""Saliency by occlusion: how much the predicted class's odds fall when a part of the image is
covered.

It needs only the model's probabilities, so it works for any served model.
Sources: Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section
4.2, for the covers; Robnik-Sikonja and Kononenko 2008, "Explaining Classifications For Individual
Instances", for the difference of log odds, their weight of evidence: where a model is 99.99 % sure,
probabilities hardly move.
"""

import numpy as np
from numpy.typing import NDArray

GRID = 8  # cells of the map per axis; a cover hides 2 x 2 of them and moves by one
LARGEST = 28.0  # probabilities are clipped to 1e-6..1 - 1e-6
_CLOSEST = 1e-6
IMAGES = 1 + (GRID - 1) ** 2  # predictions needed for one map


def occluded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(`IMAGES`, H, W, 3): the image of (H, W, 3), then one copy for each cover, which has the
    image's mean colour.
    """
    images = np.repeat(image[np.newaxis], IMAGES, axis=0)
    color = image.mean(axis=(0, 1)).round().astype(np.uint8)
    rows, columns = (_edges(length) for length in image.shape[:2])
    for index in range(IMAGES - 1):
        i, j = divmod(index, GRID - 1)
        images[1 + index, rows[i] : rows[i + 2], columns[j] : columns[j + 2]] = color
    return images


def saliency(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """(`GRID`, `GRID`), top row first: decrease of the predicted class's log odds when a cell is
    covered, averaged over its covers; negative where covering raises them.

    Args:
        probabilities: (`IMAGES`, K), predictions for `occluded`.
    """
    answer = int(probabilities[0].argmax())
    shares = probabilities[:, answer].astype(np.float64).clip(_CLOSEST, 1 - _CLOSEST)
    log_odds = np.log(shares / (1 - shares))
    falls = (log_odds[0] - log_odds[1:]).reshape(GRID - 1, GRID - 1)
    total, covers = np.zeros((GRID, GRID)), np.zeros((GRID, GRID))
    for down in (0, 1):
        for right in (0, 1):
            covered = slice(down, down + GRID - 1), slice(right, right + GRID - 1)
            total[covered] += falls
            covers[covered] += 1
    return total / covers


def _edges(length: int) -> NDArray[np.int64]:
    return np.linspace(0, length, GRID + 1).round().astype(np.int64)
