"""How likely an answer is to be right, learnt from held-out images that were shifted in many ways.

A network is calibrated on images like those it was trained on. On others it is too sure of itself,
and nothing in its probabilities tells. Agreement with changed copies and the look of the image do
(`ml.live.features`). A logistic regression on them and their products is fitted to whether the
model is right on its validation images, each of them shifted several times (`ml.live.shifts`).
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import write_whole
from common.terminal import Progress
from ml.artifact.artifact import Artifact
from ml.artifact.evaluation import Labelled
from ml.live.estimate import Belief
from ml.live.features import COPIES, answer_features, image_features
from ml.live.shifts import shifted

Floats = NDArray[np.float64]

FORMAT = 1  # of the file, and of features and shifts: one that is older is made anew
COPIES_OF_EACH = 40  # shifted copies of a held-out image, fewer where there are many images
_ROWS = 40_000
_MEMBERS = 40  # fits to other samples of the held-out images
_RIDGE = 10.0
_BATCH = 1000


@dataclass(frozen=True)
class Recalibration:
    """The fit for one model version.

    Attributes:
        images: held-out images that it comes from.
        mean, std: (F,), of the features.
        weights: (1 + B, D): the fit, and those to other samples of the images.
        doubt: error of an expected accuracy under shifts of a kind that was left out of the fit:
            the median of the kinds, as a share of the accuracy that is lost.
        clean: accuracy on the held-out images as they are.
        misfit: error of the fit on rows that it was made from: root mean square over those without
            a shift and those with one of each kind.
    """

    version: str
    images: int
    mean: Floats
    std: Floats
    weights: Floats
    doubt: float
    clean: float
    misfit: float

    def belief(self, features: Floats) -> Belief:
        """Of N answers with these (N, F) features."""
        z = (features - self.mean) / self.std
        chunks = [z[start : start + _BATCH] for start in range(0, len(z), _BATCH)]
        right = np.concatenate([_sigmoid(self.weights @ _expand(one).T) for one in chunks], axis=1)
        doubt = self.doubt_of(float(right[0].mean()))
        return Belief(right[0], right[1:], doubt=doubt, recalibrated=True)

    def doubt_of(self, accuracy: float) -> float:
        """Standard deviation of an expected accuracy beyond what labels and the fit vary by."""
        return math.hypot(self.misfit, self.doubt * max(0.0, self.clean - accuracy))

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        buffer = io.BytesIO()
        arrays = {name: np.asarray(value) for name, value in vars(self).items()}
        np.savez_compressed(buffer, format=np.array(FORMAT), **arrays)  # type: ignore[arg-type]
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, version: str) -> Recalibration | None:
        """What was saved for this version; None if nothing was, or by another release."""
        try:
            data = io.BytesIO(path.read_bytes())
            with np.load(data, allow_pickle=False) as file:
                if int(file["format"]) != FORMAT or str(file["version"]) != version:
                    return None
                return cls(
                    version,
                    int(file["images"]),
                    file["mean"],
                    file["std"],
                    file["weights"],
                    float(file["doubt"]),
                    float(file["clean"]),
                    float(file["misfit"]),
                )
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None


def features(artifact: Artifact, images: NDArray[np.uint8], probabilities: Any) -> Floats:
    """(N, F) of (N, H, W, 3) images and the (N, K) answers to them."""
    copies = [artifact.predict(copy(images)).probabilities for copy in COPIES]
    return np.concatenate([answer_features(probabilities, copies), image_features(images)], axis=1)


@dataclass(frozen=True)
class Rows:
    """N answers to shifted validation images.

    Attributes:
        features: (N, F).
        right: (N,), 1 where the answer was right.
        images: (N,), the number of the image.
        kinds: (N, len(SHIFTS)), which shifts it got.
    """

    features: Floats
    right: Floats
    images: NDArray[np.int64]
    kinds: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        """Those that are chosen."""
        return Rows(*(value[chosen] for value in vars(self).values()))


def answered(artifact: Artifact, held_out: Labelled, progress: Progress) -> Rows:
    """A model's answers to images that it has not been trained on, each shifted several times."""
    images, labels = held_out
    times = max(1, min(COPIES_OF_EACH, _ROWS // len(images)))
    progress.begin("shifting validation images", times * len(images))
    parts = []
    for time in range(times):
        for start in range(0, len(images), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(images)))
            changed, kinds = shifted(images[rows], seed=time * len(images) + start)
            p = artifact.predict(changed).probabilities
            right = (p.argmax(axis=1) == labels[rows]).astype(float)
            parts.append((features(artifact, changed, p), right, rows, kinds))
            progress.advance(len(rows))
    return Rows(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def recalibrate(artifact: Artifact, held_out: Labelled, progress: Progress) -> Recalibration:
    """Fits one for a model, on images that it has not been trained on."""
    rows = answered(artifact, held_out, progress)
    progress.begin("fitting", 1.0)
    return fit(artifact.metadata.version, rows, progress.update)


def fit(
    version: str,
    rows: Rows,
    progress: Callable[[float], None] = lambda _: None,
    *,
    doubts: bool = True,
) -> Recalibration:
    """The fit to these rows, with what is uncertain about it.

    Fits to other samples of the images (the bootstrap) are one Newton step away from it.

    Args:
        doubts: fit again without each kind of shift, which takes most of the time, for what such
            a kind would be off by.
    """
    mean, std = rows.features.mean(axis=0), np.maximum(rows.features.std(axis=0), 1e-6)
    x = _expand((rows.features - mean) / std)
    best, curvature = _newton(x, rows.right)
    order = np.argsort(rows.images, kind="stable")
    starts = np.flatnonzero(np.diff(rows.images[order], prepend=-1))
    scores = np.add.reduceat((x * (rows.right - _sigmoid(x @ best))[:, None])[order], starts)
    number = len(starts)
    random = np.random.default_rng(0)
    drawn = random.multinomial(number, np.full(number, 1 / number), _MEMBERS) - 1.0
    members = best + np.linalg.solve(curvature, (drawn @ scores).T).T
    clean = float(rows.right[~rows.kinds.any(axis=1)].mean())
    errors, seen = list[float](), np.flatnonzero(rows.kinds.any(axis=0) & doubts)
    for step, kind in enumerate(seen):
        progress((step + 1) / (len(seen) + 1))
        without = ~rows.kinds[:, kind]
        alone = rows.kinds[:, kind] & (rows.kinds.sum(axis=1) == 1)
        weights, _ = _newton(x[without], rows.right[without], best, 4)
        errors.append(_error(_sigmoid(x[alone] @ weights), rows.right[alone], clean))
    # The median: of one kind that is like no other (noise) nothing can be said without it.
    doubt = float(np.median(errors)) if errors else 0.0
    weights = np.concatenate([best[None], members])
    residual, count = rows.right - _sigmoid(x @ best), rows.kinds.sum(axis=1)
    groups = [count == 0, *((count == 1) & kind for kind in rows.kinds.T)]
    means = [residual[group].mean() for group in groups if group.any()]
    misfit = float(np.sqrt(np.mean(np.square(means))))
    return Recalibration(version, number, mean, std, weights, doubt, clean, misfit)


def _error(expected: Floats, right: Floats, clean: float) -> float:
    """By how much the expected accuracy is off, as a share of the accuracy that is lost: root mean
    square of thirds of the rows, by how likely they are to be right."""
    thirds = np.array_split(np.argsort(expected), 3)
    errors = [float(expected[third].mean() - right[third].mean()) for third in thirds]
    return float(np.sqrt(np.mean(np.square(errors)))) / max(clean - float(right.mean()), 0.02)


def _newton(
    x: NDArray[np.float32], right: Floats, start: Floats | None = None, steps: int = 12
) -> tuple[Floats, Floats]:
    """Weights of a ridge logistic regression, and the curvature of its loss there."""
    weights = np.zeros(x.shape[1]) if start is None else start.copy()
    penalty = np.full(x.shape[1], _RIDGE)
    penalty[0] = 1e-9  # the constant
    for _ in range(steps):
        p = _sigmoid(x @ weights)
        root = x * np.sqrt(p * (1 - p)).astype(np.float32)[:, None]
        curvature = (root.T @ root).astype(np.float64) + np.diag(penalty)  # half of it computed
        step = np.linalg.solve(curvature, x.T @ (right - p) - penalty * weights)
        weights += step
        if np.abs(step).max() < 1e-4:
            break
    return weights, curvature


def _expand(z: Floats) -> NDArray[np.float32]:
    """(N, D): a constant, the features and their products, each held within 4 deviations."""
    bounded = np.clip(z, -4, 4).astype(np.float32)
    first, second = np.triu_indices(z.shape[1])
    products = bounded[:, first] * bounded[:, second]
    return np.concatenate([np.ones((len(z), 1), np.float32), bounded, products], axis=1)


def _sigmoid(z: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(z, -40, 40)))
    return found
