"""Behavioural checks beyond accuracy, each with one value and one limit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml.artifact.evaluation import Labelled, evaluate
from ml.drift.corruptions import shifted

Images = NDArray[np.uint8]
Predict = Callable[[Images], NDArray[np.float32]]  # (N, H, W, 3) to (N, K) probabilities

CONFIDENT = 0.9  # a prediction counts as confident from this probability on
_PIXELS = 2  # pixels of a shift
_FACTORS = (0.85, 1.15)  # factors of brightness
_CLAIM = 0.002  # rounding on another CPU may change a few of 10,000 images
_GARBAGE = 200  # images of each kind


@dataclass(frozen=True)
class BehaviourLimits:
    """Limits that a model with 94 % test accuracy meets with a margin; shares of images."""

    accuracy: float = 0.93
    class_recall: float = 0.80
    calibration_error: float = 0.03
    flip: float = 0.93
    shift: float = 0.92
    brightness: float = 0.93
    garbage: float = 0.75
    class_balance: float = 0.5


@dataclass(frozen=True)
class Check:
    """One behavioural check: `value` must be at least or at most `limit`."""

    name: str
    value: float
    limit: float
    at_least: bool
    meaning: str
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Within the limit; NaN is not."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_dict(self) -> dict[str, object]:
        """The check as JSON-ready values."""
        return asdict(self) | {"passed": self.passed}


def check_scores(
    probabilities: NDArray[np.float32],
    data: Labelled,
    classes: tuple[str, ...],
    limits: BehaviourLimits,
    claimed: float | None = None,
) -> list[Check]:
    """Accuracy, weakest class, calibration; with `claimed`, whether that figure is reproduced.

    Args:
        probabilities: (N, K) predictions for the N images of `data`.
        claimed: the accuracy that the artifact states, if `data` is the set it was measured on.
    """
    e = evaluate(probabilities, data.labels, classes)
    recall = {name: r for name, r, n in zip(classes, e.recall, e.support, strict=True) if n}
    weakest = min(recall, key=lambda name: recall[name])
    meaning = f"images of the weakest class, {weakest}, that are classified correctly"
    checks = [
        Check("accuracy", e.accuracy, limits.accuracy, True, "images classified correctly"),
        Check("class floor", recall[weakest], limits.class_recall, True, meaning, recall),
        Check(
            "calibration error",
            e.calibration_error,
            limits.calibration_error,
            False,
            "gap between confidence and accuracy",
        ),
    ]
    if claimed is not None:
        gap = abs(e.accuracy - claimed)
        meaning = f"difference from the accuracy that the artifact states, {claimed:.2%}"
        checks.append(Check("stated accuracy", gap, _CLAIM, False, meaning))
    return checks


def check_balance(counts: Sequence[Sequence[int]], limits: BehaviourLimits) -> Check:
    """Ratio of the rarest to the most frequent class, in the part where it is smallest.

    Args:
        counts: images per class, for each part.
    """
    share = min(min(part) / max(part) for part in counts)
    meaning = "images of the rarest class for one of the most frequent class"
    return Check("class balance", share, limits.class_balance, True, meaning)


def check_invariance(
    predict: Predict,
    images: Images,
    probabilities: NDArray[np.float32],
    limits: BehaviourLimits,
    *,
    mirrored: bool = True,
) -> list[Check]:
    """Share of images that keep their class when mirrored, shifted by 2 pixels, darkened or
    brightened.

    Args:
        probabilities: (N, K) predictions for the N unchanged images.
        mirrored: whether mirrored images keep their class, unlike digits and arrows.
    """
    before = probabilities.argmax(axis=1)

    def kept(changed: Images) -> float:
        return float((predict(changed).argmax(axis=1) == before).mean())

    shifts = {
        "up": kept(shifted(images, -_PIXELS, 0)),
        "down": kept(shifted(images, _PIXELS, 0)),
        "left": kept(shifted(images, 0, -_PIXELS)),
        "right": kept(shifted(images, 0, _PIXELS)),
    }
    lights = {f"× {factor}": kept(brightened(images, factor)) for factor in _FACTORS}
    shift, light = min(shifts.values()), min(lights.values())
    meaning = "images that keep their class when mirrored"
    flips = [kept(images[:, :, ::-1])] if mirrored else []
    return [
        *(Check("flip", flip, limits.flip, True, meaning) for flip in flips),
        Check(
            "shift",
            shift,
            limits.shift,
            True,
            f"images that keep their class when moved by {_PIXELS} pixels, worst direction",
            shifts,
        ),
        Check(
            "brightness",
            light,
            limits.brightness,
            True,
            "images that keep their class when darker or brighter, the worse of both",
            lights,
        ),
    ]


def check_garbage(predict: Predict, size: tuple[int, int], limits: BehaviourLimits) -> Check:
    """Share of images without content that are classified with a confidence of 90 % or more."""
    sure = {
        kind: float((predict(images).max(axis=1) >= CONFIDENT).mean())
        for kind, images in garbage(size).items()
    }
    meaning = f"images of noise or of one colour classified with ≥ {CONFIDENT:.0%} confidence"
    return Check("garbage", float(np.mean([*sure.values()])), limits.garbage, False, meaning, sure)


def garbage(size: tuple[int, int]) -> dict[str, Images]:
    """Images without content: uniform noise, Gaussian noise around grey, solid colours."""
    random = np.random.default_rng(0)
    shape = (_GARBAGE, *size, 3)
    colours = random.integers(0, 256, (_GARBAGE, 1, 1, 3))
    kinds = {
        "even noise": random.integers(0, 256, shape),
        "Gaussian noise": random.normal(128, 64, shape).clip(0, 255),
        "one colour": np.broadcast_to(colours, shape),
    }
    return {name: np.ascontiguousarray(images.astype(np.uint8)) for name, images in kinds.items()}


def brightened(images: Images, factor: float) -> Images:
    """Brightness multiplied by a factor, clipped."""
    return np.clip(np.rint(images * np.float32(factor)), 0, 255).astype(np.uint8)
