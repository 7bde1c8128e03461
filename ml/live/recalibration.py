"""The probability of a prediction to be right, learnt from randomly shifted held-out images.

A network calibrated on its training distribution is overconfident on shifted images, and its
probabilities do not show it. Agreement on perturbed copies and image statistics do; disagreement on
copies is the strongest sign of an error under shift (Jiang et al. 2022, "Assessing generalization
of SGD via disagreement", arXiv:2106.13799). A logistic regression on them and their products is
fitted to whether the model is right on its validation images, each shifted several times
(`ml.live.shifts`).
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
from ml.live.shifts import shifted

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


FORMAT = 1  # version of the file format, features and shifts: older ones are recomputed
COPIES_OF_EACH = 40  # shifted copies per held-out image; fewer for many images
_ROWS = 40_000
_MEMBERS = 40  # bootstrap fits
_RIDGE = 10.0
_BATCH = 1000


@dataclass(frozen=True)
class Recalibration:
    """The fit for one model version.

    Attributes:
        images: number of held-out images.
        mean, std: (F,), of the features.
        weights: (1 + B, D): the fit, and B bootstrap fits.
        doubt: error of the estimated accuracy under kinds of shifts left out of the fit: the median
            over kinds, relative to the lost accuracy.
        clean: accuracy on the unshifted held-out images.
        misfit: error of the fit on its own rows: root mean square over unshifted rows and rows of
            each kind.
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
        """The belief for N predictions with these (N, F) features."""
        z = (features - self.mean) / self.std
        chunks = [z[start : start + _BATCH] for start in range(0, len(z), _BATCH)]
        right = np.concatenate([_sigmoid(self.weights @ _expand(one).T) for one in chunks], axis=1)
        doubt = self.doubt_of(float(right[0].mean()))
        return Belief(right[0], right[1:], doubt=doubt, recalibrated=True)

    def doubt_of(self, accuracy: float) -> float:
        """Standard deviation of an estimated accuracy beyond the variation of labels and fit."""
        return math.hypot(self.misfit, self.doubt * max(0.0, self.clean - accuracy))

    def save(self, path: Path) -> None:
        """Writes it atomically."""
        buffer = io.BytesIO()
        arrays = {name: np.asarray(value) for name, value in vars(self).items()}
        np.savez_compressed(buffer, format=np.array(FORMAT), **arrays)  # type: ignore[arg-type]
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, version: str) -> Recalibration | None:
        """The saved fit for this version; None if there is none, or by another release."""
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
    """(N, F) for (N, H, W, 3) images and their (N, K) predictions."""
    copies = [artifact.predict(copy(images)).probabilities for copy in COPIES]
    return np.concatenate([answer_features(probabilities, copies), image_features(images)], axis=1)


@dataclass(frozen=True)
class Rows:
    """N predictions for shifted validation images.

    Attributes:
        features: (N, F).
        right: (N,), 1 where the prediction was right.
        images: (N,), the image's index.
        kinds: (N, len(SHIFTS)), the shifts applied.
    """

    features: Floats
    right: Floats
    images: NDArray[np.int64]
    kinds: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        return Rows(*(value[chosen] for value in vars(self).values()))


def answered(artifact: Artifact, held_out: Labelled, progress: Progress) -> Rows:
    """A model's predictions for images not used in training, each shifted several times."""
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
    """Fits a recalibration for a model on images not used in its training."""
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
    """Fits these rows, with the uncertainty of the fit.

    Bootstrap fits take one Newton step from it.

    Args:
        doubts: also fit without each kind of shift, to estimate the error on unknown kinds; takes
            most of the time.
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
    # The median, since the error on a unique kind (noise) cannot be estimated without it.
    doubt = float(np.median(errors)) if errors else 0.0
    weights = np.concatenate([best[None], members])
    residual, count = rows.right - _sigmoid(x @ best), rows.kinds.sum(axis=1)
    groups = [count == 0, *((count == 1) & kind for kind in rows.kinds.T)]
    means = [residual[group].mean() for group in groups if group.any()]
    misfit = float(np.sqrt(np.mean(np.square(means))))
    return Recalibration(version, number, mean, std, weights, doubt, clean, misfit)


def _error(expected: Floats, right: Floats, clean: float) -> float:
    """Error of the estimated accuracy relative to the lost accuracy: root mean square over terciles
    of the rows by their probability of being right.
    """
    thirds = np.array_split(np.argsort(expected), 3)
    errors = [float(expected[third].mean() - right[third].mean()) for third in thirds]
    return float(np.sqrt(np.mean(np.square(errors)))) / max(clean - float(right.mean()), 0.02)


def _newton(
    x: NDArray[np.float32], right: Floats, start: Floats | None = None, steps: int = 12
) -> tuple[Floats, Floats]:
    """Weights of a ridge logistic regression, and the Hessian of its loss there."""
    weights = np.zeros(x.shape[1]) if start is None else start.copy()
    penalty = np.full(x.shape[1], _RIDGE)
    penalty[0] = 1e-9  # the intercept
    for _ in range(steps):
        p = _sigmoid(x @ weights)
        root = x * np.sqrt(p * (1 - p)).astype(np.float32)[:, None]
        curvature = (root.T @ root).astype(np.float64) + np.diag(penalty)  # only half is computed
        step = np.linalg.solve(curvature, x.T @ (right - p) - penalty * weights)
        weights += step
        if np.abs(step).max() < 1e-4:
            break
    return weights, curvature


def _expand(z: Floats) -> NDArray[np.float32]:
    """(N, D): an intercept, the features and their products, each clipped at 4 deviations."""
    bounded = np.clip(z, -4, 4).astype(np.float32)
    first, second = np.triu_indices(z.shape[1])
    products = bounded[:, first] * bounded[:, second]
    return np.concatenate([np.ones((len(z), 1), np.float32), bounded, products], axis=1)


def _sigmoid(z: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(z, -40, 40)))
    return found
