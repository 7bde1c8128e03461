"""The drift reference: class priors, confidence histogram and image statistics of the reference
images."""

import numpy as np
from numpy.typing import NDArray

from common.model.artifact import DriftReference, SignalReference
from common.model.signals import CONFIDENCE, IMAGE_SIGNALS, SIGNALS, image_signals
from common.resources import batch_within_memory

BINS = 20
_CHUNK = 1000  # maximum number of images converted to floats at a time

Signals = dict[str, NDArray[np.float64]]


def drift_reference(
    images: NDArray[np.uint8], probabilities: NDArray[np.floating]
) -> DriftReference:
    """Summarises reference images and their predictions.

    Args:
        images: (N, H, W, 3), RGB, N >= 1.
        probabilities: (N, K), the model's predictions.
    """
    return reference_of(measured(images, probabilities), predicted_counts(probabilities))


def measured(images: NDArray[np.uint8], probabilities: NDArray[np.floating]) -> Signals:
    """Every signal's value for each of (N, H, W, 3) images and their (N, K) predictions."""
    size = batch_within_memory(images[0].size, _CHUNK)
    chunks = [image_signals(images[i : i + size]) for i in range(0, len(images), size)]
    values = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in IMAGE_SIGNALS}
    values[CONFIDENCE] = probabilities.max(axis=1)
    return {name: values[name].astype(np.float64) for name in SIGNALS}


def predicted_counts(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """(K,): number of predictions of each class."""
    return np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])


def reference_of(signals: Signals, class_counts: NDArray[np.int64]) -> DriftReference:
    """Summarises measurements of the reference images: (N,) values per signal, (K,) counts."""
    return DriftReference(
        images=int(class_counts.sum()),
        class_priors=_shares(class_counts),
        signals=tuple(_reference(name, signals[name]) for name in SIGNALS),
    )


def bins_of(signal: SignalReference, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N,): the bin of each value."""
    return np.searchsorted(signal.edges, values, side="right")


def _reference(name: str, values: NDArray[np.float64]) -> SignalReference:
    """Bin edges at the reference's quantiles: no bin is empty, however skewed the signal."""
    ranked = np.sort(values)
    cuts = ranked[np.arange(1, BINS) * len(ranked) // BINS]
    edges = sorted({float(f"{cut:.7g}") for cut in cuts if cut > ranked[0]} or {float(ranked[0])})
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return SignalReference(
        name=name,
        mean=round(float(values.mean()), 6),
        std=round(float(values.std()), 6),
        edges=tuple(edges),
        shares=_shares(counts),
    )


def _shares(counts: NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(round(float(share), 6) for share in counts / counts.sum())
