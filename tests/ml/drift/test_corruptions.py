"""ml/drift/corruptions.py: every kind does what its name says, more with each severity."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.drift.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    CorruptionError,
    corrupt,
    parse_corruption,
)

Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def images() -> Images:
    """Smooth slopes in random colours under a checked pattern."""
    random = np.random.default_rng(0)
    start, end = random.uniform(40, 215, (2, 30, 1, 1, 3))
    position = np.linspace(0, 1, 32).reshape(1, 32, 1, 1)
    checks = (np.indices((32, 32)).sum(axis=0) // 3 % 2)[None, :, :, None] * 24
    pixels = start + (end - start) * position + checks
    return pixels.clip(0, 255).astype(np.uint8)


def distance(a: Images, b: Images) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def fine_structure(images: Images) -> float:
    return float(np.abs(np.diff(images.astype(float), n=2, axis=1)).mean())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_severity_changes_more_and_keeps_the_form(kind: str, images: Images) -> None:
    changed = [corrupt(images, kind, severity) for severity in SEVERITIES]
    assert all(c.shape == images.shape and c.dtype == np.uint8 for c in changed)
    distances = [distance(images, c) for c in changed]
    assert distances[0] > 0.3
    assert distances == sorted(distances)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_equal_arguments_give_equal_pixels(kind: str, images: Images) -> None:
    once, again = corrupt(images[:5], kind, 3, seed=7), corrupt(images[:5], kind, 3, seed=7)
    np.testing.assert_array_equal(once, again)


def test_noise_has_the_stated_deviation() -> None:
    grey = np.full((50, 32, 32, 3), 128, np.uint8)
    assert corrupt(grey, "gaussian_noise", 5).std() / 255 == pytest.approx(0.10, rel=0.02)
    photons, white = 50, 128 / 255
    assert corrupt(grey, "shot_noise", 5).std() / 255 == pytest.approx(
        np.sqrt(white / photons), rel=0.02
    )


@pytest.mark.parametrize("kind", ["gaussian_blur", "motion_blur"])
def test_blur_smooths_and_keeps_flat_images_flat(kind: str, images: Images) -> None:
    assert fine_structure(corrupt(images, kind, 5)) < 0.6 * fine_structure(images)
    flat = np.full((3, 32, 32, 3), 100, np.uint8)
    assert distance(corrupt(flat, kind, 5), flat) <= 1


def test_a_blurred_point_has_the_stated_width() -> None:
    point = np.zeros((1, 33, 33, 3), np.uint8)
    point[0, 16, 16] = 255
    row = corrupt(point, "gaussian_blur", 5)[0, 16, :, 0].astype(float)
    place = np.arange(33) - 16
    assert np.sqrt((row * place**2).sum() / row.sum()) == pytest.approx(1.0, rel=0.1)


def test_contrast_shrinks_deviations_by_the_factor(images: Images) -> None:
    factor = 0.15
    before, after = images.std(axis=(1, 2)), corrupt(images, "contrast", 5).std(axis=(1, 2))
    np.testing.assert_allclose(after, factor * before, atol=0.5)


def test_brightness_adds_to_the_value_and_keeps_the_hue() -> None:
    image = np.array([[[[100, 50, 0]]]], np.uint8)
    assert corrupt(image, "brightness", 5)[0, 0, 0].tolist() == [176, 88, 0]  # 100 + 0.3 * 255
    black = np.zeros((1, 1, 1, 3), np.uint8)
    assert corrupt(black, "brightness", 5)[0, 0, 0].tolist() == [76, 76, 76]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("noise:2", ("gaussian_noise", 2)),
        ("blur", ("gaussian_blur", 3)),
        ("jpeg:5", ("jpeg", 5)),
    ],
)
def test_a_corruption_is_read_from_text(text: str, expected: tuple[str, int]) -> None:
    assert parse_corruption(text) == expected


@pytest.mark.parametrize("text", ["rain", "noise:6", "noise:x", ":3", ""])
def test_an_unknown_corruption_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(CorruptionError, match=r"gaussian_noise|1 to 5"):
        parse_corruption(text)


def test_unknown_kinds_and_severities_are_refused(images: Images) -> None:
    with pytest.raises(CorruptionError, match="gaussian_noise"):
        corrupt(images, "rain", 1)
    with pytest.raises(CorruptionError, match="1 to 5"):
        corrupt(images, "jpeg", 0)
