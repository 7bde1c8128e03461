"""Dataset checks: class balance, and duplicates between training and test set."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.artifact.evaluation import Labelled

_SIDE = 8  # edge in pixels of the thumbnails that find candidates, fewer for images below 16
# Minimum correlations: of thumbnails, of all pixels, and of the detail that thumbnails lack, which
# tells two ships under the sky apart. On inspection, nearly all pairs show one photograph.
_CANDIDATE, _SAME, _SAME_DETAIL = 0.95, 0.90, 0.60
# Where all images are alike, such as digits, that does not indicate a copy: a candidate must also
# be closer than this share of the 90th percentile of the test images' nearest-neighbour distances.
_CLOSER = 0.16
_NEARLY_ONE = 0.999  # always enough for a candidate, however alike all images are
_CHUNK = 1000

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """A test image and the training image that it duplicates."""

    test: int
    train: int
    correlation: float  # of all pixels, independent of brightness and contrast
    mirrored: bool
    same_label: bool


@dataclass(frozen=True)
class Duplicates:
    """Test images that also occur in the training set, and how long the search took."""

    exact: int  # test images that are byte-identical to a training image
    near: tuple[Pair, ...]  # each with its closest training image, by decreasing correlation
    test_images: int
    elapsed_ms: float

    @property
    def share(self) -> float:
        """Share of test images with a near or exact duplicate."""
        return len(self.near) / self.test_images


def class_counts(data: Labelled, classes: int) -> tuple[int, ...]:
    """Number of images of each class."""
    return tuple(int(count) for count in np.bincount(data.labels, minlength=classes))


def find_duplicates(
    train: Labelled, test: Labelled, progress: Callable[[float], None] = lambda _: None
) -> Duplicates:
    """Finds pairs that differ at most by crop, compression, brightness, contrast or mirroring.

    Thumbnails of 8 × 8 pixels are compared by one matrix product, candidates by all their pixels;
    the more alike the images of a dataset are, the stricter the threshold. `progress` receives the
    share that is done.

    Compare Barz & Denzler 2019, arXiv:1902.00423, who found duplicates of 3.3 % of the test images
    by hand.
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
    """Threshold for candidates, from the correlations of (some test, all training) thumbnails."""
    usual = float(np.quantile(1 - alike.max(axis=1), 0.9))
    return max(_CANDIDATE, min(_NEARLY_ONE, 1 - _CLOSER * usual))


def _alike(one: Images, other: Images) -> float:
    """Correlation of two images if they are duplicates, else 0."""
    if np.array_equal(one, other):
        return 1.0
    found = _correlation(one.astype(np.float32), other.astype(np.float32))
    same = found >= _SAME and _correlation(_detail(one), _detail(other)) >= _SAME_DETAIL
    return found if same else 0.0


def _correlation(one: Floats, other: Floats) -> float:
    return float(_normalised(one[None])[0] @ _normalised(other[None])[0])


def _detail(image: Images) -> Floats:
    """(H, W, 3) image minus its upscaled thumbnail."""
    small = _thumbnails(image[None])[0]
    rows, columns = (
        length // count for length, count in zip(image.shape[:2], small.shape[:2], strict=True)
    )
    large = np.repeat(np.repeat(small, rows, axis=0), columns, axis=1)
    return image[: large.shape[0], : large.shape[1]] - large


def _thumbnails(images: Images) -> Floats:
    """(N, H, W, 3) -> at most (N, 8, 8, 3) block means; the remainder of other sizes is cropped."""
    high, wide = (max(1, min(_SIDE, length // 2)) for length in images.shape[1:3])
    rows, columns = images.shape[1] // high, images.shape[2] // wide
    cut = images[:, : rows * high, : columns * wide]
    blocks = cut.reshape(len(images), high, rows, wide, columns, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _normalised(images: Floats) -> Floats:
    """(N, D): mean removed, unit length; constant images become zero."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.sqrt((flat * flat).sum(axis=1, keepdims=True))
    return np.asarray(flat / np.where(length < 1e-3, np.inf, length), dtype=np.float32)
