"""ml/live/recalibration: what the look of an image and changed copies say of an answer."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.live.recalibration import (
    COPIES,
    Recalibration,
    Rows,
    answer_features,
    fit,
    image_features,
    smoothed,
)
from ml.live.shifts import SHIFTS, shifted


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """(60, 16, 16, 3): smooth slopes."""
    random = np.random.default_rng(0)
    ends = random.uniform(30, 220, (2, 60, 1, 1, 3))
    across = np.linspace(0, 1, 16).reshape(1, 1, 16, 1)
    slopes = ends[0] + (ends[1] - ends[0]) * across + np.zeros((1, 16, 1, 1))
    return slopes.astype(np.uint8)


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_shift_changes_images_by_its_seed_alone(images: NDArray[np.uint8], kind: str) -> None:
    changed, kinds = shifted(images, 3, [kind])
    again, _ = shifted(images, 3, [kind])
    assert (changed == again).all()
    assert np.flatnonzero(kinds.any(axis=0)).tolist() == [list(SHIFTS).index(kind)]
    same, left_alone = (changed == images).all(axis=(1, 2, 3)), ~kinds.any(axis=1)
    assert same[left_alone].all()
    assert same[~left_alone].mean() < 0.3
    assert (changed != shifted(images, 4, [kind])[0]).any()


def test_features_tell_noise_blur_and_compression_apart(images: NDArray[np.uint8]) -> None:
    random = np.random.default_rng(0)
    noise = np.clip(images + random.normal(0, 12, images.shape), 0, 255).astype(np.uint8)
    plain, noisy, blurred = (image_features(one) for one in (images, noise, smoothed(noise)))
    fine = slice(0, 3)
    assert (noisy[:, fine].mean(0) > plain[:, fine].mean(0) + 0.5).all()
    assert (blurred[:, fine].mean(0) < noisy[:, fine].mean(0)).all()
    assert np.isfinite(image_features(images[:, :3, :3])).all()


def test_copies_keep_shape_and_an_even_image(images: NDArray[np.uint8]) -> None:
    even = np.full_like(images, 77)
    for copy in COPIES:
        assert copy(images).shape == images.shape
        assert copy(images).dtype == np.uint8
        assert (copy(even) == even).all()


def test_an_answer_that_copies_contradict_looks_different() -> None:
    p = np.array([[0.8, 0.2], [0.8, 0.2]])
    q = np.array([[0.8, 0.2], [0.1, 0.9]])
    agreed, contradicted = answer_features(p, [q])
    assert agreed[:3] == pytest.approx(contradicted[:3])
    assert agreed[3] > contradicted[3]
    assert (agreed[4], contradicted[4]) == (1, 0)


def made(count: int, seed: int) -> tuple[Rows, NDArray[np.int64]]:
    """Rows of 200 images whose first feature, and a product, decide whether the answer is right.
    Kind 1 has less of the first; -1 is none."""
    random = np.random.default_rng(seed)
    kinds = random.integers(-1, 2, count)
    x = random.normal(size=(count, 3))
    x[:, 0] -= kinds == 1
    logit = 1.5 + x[:, 0] + 0.8 * x[:, 1] * x[:, 2]
    right = (random.random(count) < 1 / (1 + np.exp(-logit))).astype(float)
    applied = np.arange(len(SHIFTS)) == kinds[:, None]
    return Rows(x, right, random.integers(0, 200, count), applied), kinds


@pytest.fixture(scope="module")
def fitted() -> Recalibration:
    return fit("a" * 64, made(8000, 0)[0])


def test_the_fit_expects_the_accuracy_of_traffic_that_shifted(fitted: Recalibration) -> None:
    rows, kinds = made(8000, 1)
    for kind in (-1, 0, 1):
        some = rows.where(kinds == kind)
        belief = fitted.belief(some.features)
        assert belief.right.mean() == pytest.approx(some.right.mean(), abs=0.02)
        assert 0 < belief.members.mean(axis=1).std() < 0.03
    assert belief.recalibrated
    assert belief.doubt > fitted.belief(rows.features[kinds == -1]).doubt  # where much is lost


def test_what_was_saved_is_read_again_for_its_version_alone(
    fitted: Recalibration, tmp_path: Path
) -> None:
    path = tmp_path / "one.npz"
    fitted.save(path)
    read = Recalibration.load(path, fitted.version)
    assert read is not None
    x = made(50, 2)[0].features
    assert (read.belief(x).right == fitted.belief(x).right).all()
    assert Recalibration.load(path, "b" * 64) is None
    assert Recalibration.load(tmp_path / "none.npz", fitted.version) is None
    path.write_bytes(path.read_bytes()[:500])
    assert Recalibration.load(path, fitted.version) is None
