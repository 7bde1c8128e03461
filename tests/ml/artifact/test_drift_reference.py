"""ml/artifact/drift_reference.py against plain NumPy."""

import numpy as np
import pytest

from common.model.signals import SIGNALS
from ml.artifact.drift_reference import BINS, bins_of, drift_reference, measured


def test_every_bin_of_a_signal_holds_about_as_many_reference_images() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, random.integers(1, 257, (2300, 1, 1, 1)), (2300, 6, 6, 3))
    answers = random.dirichlet([0.2, 0.2, 0.2], 2300)
    reference = drift_reference(images.astype(np.uint8), answers)
    assert reference.images == 2300
    assert tuple(signal.name for signal in reference.signals) == SIGNALS
    for signal in reference.signals:
        assert len(signal.shares) == BINS
        np.testing.assert_allclose(signal.shares, 1 / BINS, atol=0.01)


def test_a_signal_keeps_the_values_moments() -> None:
    images = np.random.default_rng(1).integers(0, 256, (1500, 4, 4, 3)).astype(np.uint8)
    reference = drift_reference(images, np.full((1500, 2), 0.5))
    by_name = {signal.name: signal for signal in reference.signals}
    means = (images / 255).mean(axis=(1, 2))
    assert by_name["green_mean"].mean == pytest.approx(means[:, 1].mean(), abs=1e-6)
    assert by_name["blue_mean"].std == pytest.approx(means[:, 2].std(), abs=1e-6)


def test_priors_come_from_the_answers() -> None:
    images = np.full((4, 3, 3, 3), 255, np.uint8)
    answers = np.array([[0.99, 0.01], [0.62, 0.38], [0.02, 0.98], [1.0, 0.0]])
    assert drift_reference(images, answers).class_priors == (0.75, 0.25)


def test_values_that_are_all_equal_still_make_two_bins() -> None:
    images = np.full((4, 3, 3, 3), 255, np.uint8)
    reference = drift_reference(images, np.full((4, 2), 0.5))
    for signal in reference.signals:
        assert len(signal.edges) == 1
        assert signal.shares == (0.0, 1.0)


def test_the_share_of_a_bin_is_that_of_the_values_that_fall_into_it() -> None:
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (400, 5, 5, 3)).astype(np.uint8)
    answers = random.dirichlet([1, 1], 400).astype(np.float32)
    signals = measured(images, answers)
    for signal in drift_reference(images, answers).signals:
        bins = bins_of(signal, signals[signal.name])
        shares = np.bincount(bins, minlength=len(signal.shares)) / 400
        np.testing.assert_allclose(shares, signal.shares, atol=1e-6)
