"""Dataset checks: class balance, and duplicates between training and test set."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.artifact.evaluation import Labelled

_SIDE = 8  # pixels of the thumbnail that finds candidates, fewer for images below 16
# Least correlations: of thumbnails, of all pixels, and of what the thumbnails leave out, by which
# two ships below the sky differ. Looked at, nearly all pairs found so show one photograph.
_CANDIDATE, _SAME, _SAME_DETAIL = 0.95, 0.90, 0.60
# Where all images are alike, as digits are, that is no sign of a copy: a candidate is also closer
# than this share of the distance at which nine in ten test images have their closest one.
_CLOSER = 0.16
_NEARLY_ONE = 0.999  # a copy's correlation, whatever the others are
_CHUNK = 1000

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """A test image and the training image that shows the same."""

    test: int
    train: int
    correlation: float  # of all pixels: brightness and contrast aside
    mirrored: bool
    same_label: bool


@dataclass(frozen=True)
class Duplicates:
    """Test images that training has seen, and how long the search took."""

    exact: int  # test images whose very bytes are in the training set
    near: tuple[Pair, ...]  # the closest training image of each, most alike first
    test_images: int
    elapsed_ms: float

    @property
    def share(self) -> float:
        """Share of test images with a near or exact duplicate."""
        return len(self.near) / self.test_images


def class_counts(data: Labelled, classes: int) -> tuple[int, ...]:
    """Images of each class."""
    return tuple(int(count) for count in np.bincount(data.labels, minlength=classes))


def find_duplicates(
    train: Labelled, test: Labelled, progress: Callable[[float], None] = lambda _: None
) -> Duplicates:
    """Pairs that differ by crop, compression, brightness, contrast, or by being mirrored, at most.

    Thumbnails of 8 × 8 pixels are compared by one matrix product, candidates by all their pixels;
    the more alike the images of a dataset are, the closer a pair has to be.
    `progress` hears the share that is done.

    Compare Barz & Denzler 2019, arXiv:1902.00423, who found 3.3 % of the test images by hand.
    """
    start = time.perf_counter()
    seen = {image.tobytes() for image in train.images}
    exact = sum(image.tobytes() in seen for image in test.images)
    small = _normalised(_thumbnails(train.images))
    near = list[Pair]()
    for begin in range(0, len(test.images), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        images = test.images[part]
        best: dict[int, Pair] = {}
        for mirrored in (False, True):
            shown = images[:, :, ::-1] if mirrored else images
            alike = _normalised(_thumbnails(shown)) @ small.T
            if begin == 0 and not mirrored:
                least = _least_correlation(alike)
            for row, column in np.argwhere(alike >= least):
                index, found = begin + int(row), _alike(shown[row], train.images[column])
                if found and (index not in best or best[index].correlation < found):
                    same = bool(test.labels[index] == train.labels[column])
                    best[index] = Pair(index, int(column), round(found, 4), mirrored, same)
        near += best.values()
        progress(min(1.0, (begin + _CHUNK) / len(test.images)))
    ranked = tuple(sorted(near, key=lambda pair: (-pair.correlation, pair.test)))
    return Duplicates(exact, ranked, len(test.images), 1e3 * (time.perf_counter() - start))


def _least_correlation(alike: Floats) -> float:
    """What makes a candidate, by the correlations of (some test, all training) thumbnails."""
    usual = float(np.quantile(1 - alike.max(axis=1), 0.9))
    return max(_CANDIDATE, min(_NEARLY_ONE, 1 - _CLOSER * usual))


def _alike(one: Images, other: Images) -> float:
    """Correlation of two images if they show the same, else 0."""
    if np.array_equal(one, other):
        return 1.0
    found = _correlation(one.astype(np.float32), other.astype(np.float32))
    same = found >= _SAME and _correlation(_detail(one), _detail(other)) >= _SAME_DETAIL
    return found if same else 0.0


def _correlation(one: Floats, other: Floats) -> float:
    return float(_normalised(one[None])[0] @ _normalised(other[None])[0])


def _detail(image: Images) -> Floats:
    """(H, W, 3) image less its enlarged thumbnail."""
    small = _thumbnails(image[None])[0]
    rows, columns = (
        length // count for length, count in zip(image.shape[:2], small.shape[:2], strict=True)
    )
    large = np.repeat(np.repeat(small, rows, axis=0), columns, axis=1)
    return image[: large.shape[0], : large.shape[1]] - large


def _thumbnails(images: Images) -> Floats:
    """(N, H, W, 3) to at most (N, 8, 8, 3) means of blocks; images of other sizes are cropped."""
    high, wide = (max(1, min(_SIDE, length // 2)) for length in images.shape[1:3])
    rows, columns = images.shape[1] // high, images.shape[2] // wide
    cut = images[:, : rows * high, : columns * wide]
    blocks = cut.reshape(len(images), high, rows, wide, columns, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _normalised(images: Floats) -> Floats:
    """(N, D): mean removed, length one; flat images become zero."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.sqrt((flat * flat).sum(axis=1, keepdims=True))
    return np.asarray(flat / np.where(length < 1e-3, np.inf, length), dtype=np.float32)
