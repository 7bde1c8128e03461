"""ml/behaviour/checks.py on answers whose behaviour is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.artifact.evaluation import Labelled
from ml.behaviour.checks import (
    BehaviourLimits,
    Check,
    brightened,
    check_garbage,
    check_invariance,
    check_scores,
    garbage,
)
from ml.drift.corruptions import shifted

CLASSES = ("dark", "bright")
Images = NDArray[np.uint8]


def by_brightness(images: Images) -> NDArray[np.float32]:
    """Sure of itself, by whether the mean is above the middle."""
    bright = images.mean(axis=(1, 2, 3)) > 127
    return np.where(bright[:, None], (0.02, 0.98), (0.98, 0.02)).astype(np.float32)


def by_first_column(images: Images) -> NDArray[np.float32]:
    """Looks at the left edge alone."""
    return by_brightness(images[:, :, :1])


@pytest.fixture
def data() -> Labelled:
    labels = np.arange(100) % 2
    images = np.where(labels[:, None, None, None], 160, 60) + np.zeros((100, 8, 8, 3))
    return Labelled(images.astype(np.uint8), labels)


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_good_model_passes_and_its_weakest_class_is_named(data: Labelled) -> None:
    labels = data.labels.copy()
    labels[:10:2] = 1  # five dark images that are called bright
    answers = by_brightness(data.images)
    relabelled, limits = Labelled(data.images, labels), BehaviourLimits(calibration_error=0.04)
    checks = named(check_scores(answers, relabelled, CLASSES, limits, 0.95))
    assert checks["accuracy"].value == pytest.approx(0.95)
    assert checks["class floor"].value == pytest.approx(50 / 55)
    assert "bright" in checks["class floor"].meaning
    assert all(check.passed for check in checks.values())


def test_a_stated_accuracy_that_does_not_hold_fails(data: Labelled) -> None:
    checks = named(check_scores(by_brightness(data.images), data, CLASSES, BehaviourLimits(), 0.94))
    assert not checks["stated accuracy"].passed
    assert checks["stated accuracy"].value == pytest.approx(0.06)


def test_a_class_without_images_is_no_weakest_class(data: Labelled) -> None:
    answers = np.pad(by_brightness(data.images), ((0, 0), (0, 1)))
    checks = named(check_scores(answers, data, (*CLASSES, "never"), BehaviourLimits()))
    assert checks["class floor"].value == 1


def test_invariance_counts_images_that_keep_their_class(data: Labelled) -> None:
    checks = named(
        check_invariance(by_brightness, data.images, by_brightness(data.images), BehaviourLimits())
    )
    assert all(check.value == 1 for check in checks.values())


def test_what_depends_on_the_side_is_caught_by_the_flip(data: Labelled) -> None:
    images = data.images.copy()
    images[:, :, 4:] = 220 - images[:, :, 4:]
    checks = named(
        check_invariance(by_first_column, images, by_first_column(images), BehaviourLimits())
    )
    assert checks["flip"].value == 0
    assert not checks["flip"].passed
    assert checks["shift"].passed


def test_what_depends_on_the_light_is_caught_by_brightness(data: Labelled) -> None:
    images = data.images.copy()
    images[1::2] = 135  # darkened by 15 % it falls below the middle
    checks = named(
        check_invariance(by_brightness, images, by_brightness(images), BehaviourLimits())
    )
    assert checks["brightness"].value == 0.5
    assert checks["brightness"].details["× 0.85"] == 0.5
    assert checks["brightness"].details["× 1.15"] == 1


def test_confidence_in_garbage_is_found_and_modesty_passes() -> None:
    assert not check_garbage(by_brightness, (8, 8), BehaviourLimits()).passed
    unsure = check_garbage(
        lambda x: np.full((len(x), 2), 0.5, np.float32), (8, 8), BehaviourLimits()
    )
    assert (unsure.value, unsure.passed) == (0, True)


def test_garbage_shows_nothing_and_is_the_same_every_time() -> None:
    kinds = garbage((8, 8))
    assert {name: images.shape[1:] for name, images in kinds.items()} == dict.fromkeys(
        ("even noise", "Gaussian noise", "one colour"), (8, 8, 3)
    )
    assert kinds["one colour"].std(axis=(1, 2)).max() == 0
    np.testing.assert_array_equal(kinds["even noise"], garbage((8, 8))["even noise"])


def test_nan_never_passes() -> None:
    for at_least in (True, False):
        assert not Check("odd", float("nan"), 0.5, at_least, "").passed


def test_shifts_repeat_the_border_and_light_is_clipped() -> None:
    images = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    assert shifted(images, 1, 0)[0, :, :, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert shifted(images, 0, -1)[0, :, :, 0].tolist() == [[1, 2, 2], [4, 5, 5], [7, 8, 8]]
    assert brightened(np.array([0, 100, 250], np.uint8), 1.15).tolist() == [0, 115, 255]
