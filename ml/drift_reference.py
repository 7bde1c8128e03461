"""What a model saw and answered on its reference images, for comparing live traffic with it."""

import numpy as np
from numpy.typing import NDArray

from serve.contract.artifact import CHANNELS, ChannelStatistics, DriftReference

CONFIDENCE_BINS = 20
CHANNEL_BINS = 16
_CHUNK = 1000  # images turned into floats at a time


def drift_reference(
    images: NDArray[np.uint8], probabilities: NDArray[np.floating]
) -> DriftReference:
    """Summarise reference images and the answers to them.

    Args:
        images: (N, H, W, 3), RGB, N >= 1.
        probabilities: (N, K), the model's answers.
    """
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    counts = np.bincount(predictions, minlength=probabilities.shape[1])
    mean, std = image_statistics(images)
    return DriftReference(
        images=len(images),
        class_priors=_shares(counts),
        confidence_histogram=_histogram(confidence, CONFIDENCE_BINS, 1.0),
        channels=tuple(_channel(mean[:, c], std[:, c]) for c in range(len(CHANNELS))),
    )


def image_statistics(
    images: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, 3) means and standard deviations of each image's channels, pixel values in 0..1."""
    chunks = [
        images[i : i + _CHUNK].astype(np.float64) / 255 for i in range(0, len(images), _CHUNK)
    ]
    return (
        np.concatenate([chunk.mean(axis=(1, 2)) for chunk in chunks]),
        np.concatenate([chunk.std(axis=(1, 2)) for chunk in chunks]),
    )


def _channel(mean: NDArray[np.float64], std: NDArray[np.float64]) -> ChannelStatistics:
    variance = (std**2).mean() + mean.var()  # within images and between them
    return ChannelStatistics(
        mean=round(float(mean.mean()), 6),
        std=round(float(np.sqrt(variance)), 6),
        image_mean_histogram=_histogram(mean, CHANNEL_BINS, 1.0),
        image_std_histogram=_histogram(std, CHANNEL_BINS, 0.5),
    )


def _histogram(values: NDArray[np.floating], bins: int, top: float) -> tuple[float, ...]:
    return _shares(np.histogram(values, bins, (0.0, top))[0])


def _shares(counts: NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(round(float(share), 6) for share in counts / counts.sum())
