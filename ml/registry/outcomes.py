"""Per-image outcomes of models on the test set, and significance tests between two of them.

On the same images, only those that exactly one model gets right distinguish the two, and McNemar's
exact test asks whether a fair coin could have split them so. On different images two proportions
are compared. Both give an interval for the difference, and a candidate is good enough if even the
lower end is not below the allowed margin: non-inferiority, where the burden of proof is on the
candidate and a small test set proves little.

Sources: McNemar 1947, Psychometrika 12:153-157, in its exact form (Fagerland, Lydersen and Laake
2013, BMC Medical Research Methodology 13:91); Agresti and Min 2005, Statistics in Medicine
24:729-740 (paired interval); Agresti and Caffo 2000, The American Statistician 54:280-288 (two
proportions); non-inferiority by a one-sided bound: Piaggio et al. 2012, JAMA 308:2594-2604.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from ml.artifact.artifact import Artifact
from ml.artifact.evaluation import ProperScore, calibration_by_chance, evaluate, proper_scores
from ml.data.cifar10 import DatasetError
from ml.data.fetch import FetchError
from ml.registry.ledger import RegistryError
from ml.registry.registry import Registry
from ml.registry.versions import Manifest
from ml.runs.datasets import DatasetMismatch, UnavailableDataset, dataset_of

_FORM = "3"  # version of the stored form; 2: with proper scores, 3: with calibration by chance


@dataclass(frozen=True)
class Examples:
    """Test images for comparing models, and their digest."""

    digest: str
    images: NDArray[np.uint8]  # (N, H, W, 3), RGB
    labels: NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Outcomes:
    """Results of one model on one test set."""

    test_set: str
    accuracy: float
    calibration_error: float
    calibration_by_chance: float
    loss: ProperScore  # cross-entropy, nats
    brier: ProperScore
    right: NDArray[np.bool_]  # (N,), whether each prediction is right

    def to_json(self) -> bytes:
        """Stored as one bit per image."""
        packed = base64.b64encode(np.packbits(self.right).tobytes()).decode()
        own = {"right": packed, "loss": asdict(self.loss), "brier": asdict(self.brier)}
        values = vars(self) | own | {"images": len(self.right)}
        return (json.dumps(values) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Outcomes:
        """Inverse of `to_json`."""
        values: dict[str, Any] = json.loads(data)
        packed = np.frombuffer(base64.b64decode(values.pop("right")), np.uint8)
        right = np.unpackbits(packed, count=values.pop("images")).astype(bool)
        loss, brier = (ProperScore(**values.pop(name)) for name in ("loss", "brier"))
        return cls(right=right, loss=loss, brier=brier, **values)


def find_examples(manifest: Manifest, npz: Path | None) -> Examples | None:
    """Test images for a model: from a given file, else of the dataset that it was trained on; none,
    and why on stderr, if that is not to be had here.

    Args:
        npz: arrays `images`, uint8 (N, H, W, 3), and `labels`, integers (N,); perhaps `classes`,
            the names of the labels.

    Raises:
        RegistryError: the file does not fit this model.
    """
    if npz is not None:
        return _read_npz(npz, manifest)
    known = manifest.lineage.config
    config = OmegaConf.create(dict(known)) if known else None
    try:
        test = dataset_of(manifest, config).read("test")
    except (DatasetMismatch, UnavailableDataset) as exc:
        print(f"The scores are not measured again, the recorded ones count: {exc}", file=sys.stderr)
        return None
    except (DatasetError, FetchError, OSError) as exc:
        raise RegistryError(
            f"{exc}\nWithout test images (--no-test-data) recorded accuracies are compared"
        ) from exc
    return Examples(f"{manifest.dataset_digest}/test", test.images, test.labels)


def outcomes(registry: Registry, version: str, artifact: Artifact, examples: Examples) -> Outcomes:
    """The model's results, from the registry or by evaluating it."""
    named = hashlib.sha256(f"{_FORM} {examples.digest}".encode()).hexdigest()[:16]
    key = f"outcomes/{version}-{named}.json"
    try:
        return Outcomes.from_json(registry.store.read(key))
    except KeyError:
        measured = _measure(artifact, examples)
    registry.store.create(key, measured.to_json())
    return measured


def _measure(artifact: Artifact, examples: Examples) -> Outcomes:
    probabilities = artifact.predict(examples.images).probabilities
    scores = evaluate(probabilities, examples.labels, artifact.metadata.classes)
    right = probabilities.argmax(axis=1) == examples.labels
    loss, brier = proper_scores(probabilities, examples.labels)
    return Outcomes(
        test_set=examples.digest,
        accuracy=scores.accuracy,
        calibration_error=scores.calibration_error,
        calibration_by_chance=calibration_by_chance(probabilities),
        loss=loss,
        brier=brier,
        right=right,
    )


def _read_npz(path: Path, manifest: Manifest) -> Examples:
    shape = (*manifest.input_size, 3)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            classes = tuple(map(str, arrays["classes"])) if "classes" in arrays else None
    except (OSError, ValueError, KeyError) as exc:
        raise RegistryError(
            f"{path} holds no test images ({exc}): expected an .npz with images and labels"
        ) from exc
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1:] == shape
    if not fits or labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise RegistryError(
            f"{path} holds {images.dtype}{images.shape} images and {labels.dtype}{labels.shape} "
            f"labels: this model takes uint8(N, {shape[0]}, {shape[1]}, 3) and integers (N,)"
        )
    if classes is not None and classes != tuple(manifest.classes):
        raise RegistryError(
            f"{path} has the classes {', '.join(classes)}: this model's classes are "
            f"{', '.join(manifest.classes)}"
        )
    if not len(labels) or labels.min() < 0 or labels.max() >= len(manifest.classes):
        raise RegistryError(f"{path} has no images, or labels outside the model's classes")
    digest = hashlib.sha256(images.tobytes() + labels.astype(np.int64).tobytes()).hexdigest()
    return Examples(digest, images, labels.astype(np.int64))


@dataclass(frozen=True)
class Comparison:
    """A candidate's accuracy minus the champion's, with its uncertainty."""

    method: str  # "McNemar, exact" or "two proportions"
    difference: float
    lower: float  # one-sided bound: below it with probability at most alpha
    p_value: float  # two-sided, for no difference
    detail: str

    def is_not_inferior(self, margin: float) -> bool:
        """True if a loss of more than `margin` is ruled out."""
        return self.lower >= -margin

    def is_superior(self, alpha: float) -> bool:
        """True if it is significantly better."""
        return self.difference > 0 and self.p_value < alpha


def compare_paired(
    candidate: NDArray[np.bool_], champion: NDArray[np.bool_], alpha: float
) -> Comparison:
    """Compares results on the same images.

    Args:
        candidate: (N,), whether each prediction is right.
        champion: (N,), the same for the champion.

    Raises:
        ValueError: they differ in length, or are empty.
    """
    if candidate.shape != champion.shape or candidate.size == 0:
        raise ValueError(f"Expected equally many answers, got {candidate.shape}, {champion.shape}")
    n = candidate.size
    gained = int((candidate & ~champion).sum())
    lost = int((~candidate & champion).sum())
    total, better, worse = n + 2, gained + 0.5, lost + 0.5  # half an image in each of four cells
    difference = (better - worse) / total
    error = math.sqrt(better + worse - (better - worse) ** 2 / total) / total
    return Comparison(
        method="McNemar, exact",
        difference=(gained - lost) / n,
        lower=difference - NormalDist().inv_cdf(1 - alpha) * error,
        p_value=mcnemar_exact(gained, lost),
        detail=f"of {n:,} images {gained} gained, {lost} lost",
    )


def compare_proportions(
    candidate_right: int,
    candidate_images: int,
    champion_right: int,
    champion_images: int,
    alpha: float,
) -> Comparison:
    """Compares results on different images, or recorded accuracies."""
    p_value = two_proportion_p(candidate_right, candidate_images, champion_right, champion_images)
    a, b = (candidate_right + 1, candidate_images + 2), (champion_right + 1, champion_images + 2)
    shares = [right / images for right, images in (a, b)]
    error = math.sqrt(sum(p * (1 - p) / n for p, (_, n) in zip(shares, (a, b), strict=True)))
    return Comparison(
        method="two proportions",
        difference=candidate_right / candidate_images - champion_right / champion_images,
        lower=shares[0] - shares[1] - NormalDist().inv_cdf(1 - alpha) * error,
        p_value=p_value,
        detail=f"on {candidate_images:,} and {champion_images:,} images, not image by image",
    )


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p-value for a fair coin to split `gained + lost` at least as unevenly."""
    n, fewer = gained + lost, min(gained, lost)
    # In logarithms, since the coefficients overflow a float above a thousand images.
    terms = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(fewer + 1)
    )
    return min(1.0, 2 * math.fsum(math.exp(term) for term in terms))


def two_proportion_p(right_a: int, images_a: int, right_b: int, images_b: int) -> float:
    """Two-sided p-value of the pooled z-test for equal proportions."""
    pooled = (right_a + right_b) / (images_a + images_b)
    error = math.sqrt(pooled * (1 - pooled) * (1 / images_a + 1 / images_b))
    if error == 0:
        return 1.0
    return 2 * NormalDist().cdf(-abs(right_a / images_a - right_b / images_b) / error)
