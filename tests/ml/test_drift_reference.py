"""ml/drift_reference.py against plain NumPy."""

import numpy as np

from ml.drift_reference import drift_reference, image_statistics


def test_statistics_are_those_of_the_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2300, 4, 4, 3)).astype(np.uint8)
    pixels = images / 255
    mean, std = image_statistics(images)
    np.testing.assert_allclose(mean, pixels.mean(axis=(1, 2)))
    np.testing.assert_allclose(std, pixels.std(axis=(1, 2)))
    reference = drift_reference(images, np.full((2300, 2), 0.5))
    for channel, statistics in enumerate(reference.channels):
        assert abs(statistics.mean - pixels[..., channel].mean()) < 1e-6
        assert abs(statistics.std - pixels[..., channel].std()) < 1e-6
        assert abs(sum(statistics.image_mean_histogram) - 1) < 1e-4


def test_priors_and_confidence_come_from_the_answers() -> None:
    images = np.full((4, 2, 2, 3), 255, np.uint8)
    answers = np.array([[0.99, 0.01], [0.62, 0.38], [0.02, 0.98], [1.0, 0.0]])
    reference = drift_reference(images, answers)
    assert reference.class_priors == (0.75, 0.25)
    assert (reference.confidence_histogram[12], reference.confidence_histogram[-1]) == (0.25, 0.75)
    assert reference.channels[0].image_mean_histogram[-1] == 1  # white falls into the last bin
    assert reference.channels[0].image_std_histogram[0] == 1
