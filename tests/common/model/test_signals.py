"""common/model/signals.py on images whose signals are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from common.model.signals import IMAGE_SIGNALS, image_signals


def noise(seed: int = 0, images: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (images, 16, 16, 3)).astype(np.uint8)


def test_means_and_deviations_are_those_of_the_pixels() -> None:
    images = noise()
    signals, pixels = image_signals(images), images / 255
    assert tuple(signals) == IMAGE_SIGNALS
    np.testing.assert_allclose(signals["green_mean"], pixels[..., 1].mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(signals["blue_std"], pixels[..., 2].std(axis=(1, 2)), rtol=1e-4)


def test_flat_images_and_smooth_slopes_have_no_fine_structure() -> None:
    slope = np.broadcast_to(np.arange(0, 160, 10)[None, :, None, None], (2, 16, 16, 3))
    flat = np.full((2, 16, 16, 3), 77)
    for images in (slope, flat):
        signals = image_signals(images.astype(np.uint8))
        np.testing.assert_allclose(signals["sharpness"], 0, atol=1e-4)
        np.testing.assert_allclose(signals["colour_noise"], 0, atol=1e-6)


def test_noise_is_sharp_and_colourful_and_grey_noise_is_not_colourful() -> None:
    coloured = image_signals(noise())
    grey = image_signals(np.repeat(noise()[..., :1], 3, axis=3))
    assert coloured["sharpness"].min() > 1
    assert coloured["colour_noise"].min() > 0.5
    assert grey["sharpness"].min() > 1
    np.testing.assert_array_equal(grey["colour_noise"], 0)


@pytest.mark.parametrize("side", [1, 2])
def test_images_too_small_for_fine_structure_have_none(side: int) -> None:
    signals = image_signals(noise()[:, :side, :side])
    np.testing.assert_array_equal(signals["sharpness"], 0)
    assert np.isfinite(signals["red_std"]).all()


def test_an_image_measures_the_same_alone_and_in_a_batch() -> None:
    images = noise(images=7)
    together = image_signals(images)
    for i in range(len(images)):
        alone = image_signals(images[i : i + 1])
        for name in IMAGE_SIGNALS:
            assert alone[name][0] == pytest.approx(together[name][i], rel=1e-5)
