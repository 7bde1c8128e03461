"""serve/drift with the bundled model on real images: silent on clean ones alone."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.artifact.artifact import Artifact, load_artifact, model_path
from ml.drift.corruptions import corrupt
from ml.runs.datasets import cifar10
from serve.drift.monitor import DriftMonitor
from serve.exchange import Exchange

BATCH = 50


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return load_artifact(model_path(None), threads=1)


@pytest.fixture(scope="module")
def photos() -> NDArray[np.uint8]:
    """(1500, 32, 32, 3) of the test images, in random order."""
    images = cifar10().read("test").images
    return images[np.random.default_rng(0).permutation(len(images))[:1500]]


@pytest.fixture
def monitor(artifact: Artifact) -> Iterator[DriftMonitor]:
    unlimited = DriftMonitor(artifact.metadata, rate=1e9)
    yield unlimited
    unlimited.close()


def send(monitor: DriftMonitor, artifact: Artifact, images: NDArray[np.uint8]) -> None:
    for start in range(0, len(images), BATCH):
        exchange = Exchange(None)
        exchange.images = images[start : start + BATCH]
        exchange.probabilities = artifact.predict(exchange.images).probabilities
        monitor(exchange, "POST", "/predict/batch")
        monitor.flush(60)


def test_clean_traffic_is_silent(
    monitor: DriftMonitor,
    artifact: Artifact,
    photos: NDArray[np.uint8],
    caplog: pytest.LogCaptureFixture,
) -> None:
    send(monitor, artifact, photos)
    assert monitor.state().measured == len(photos)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "kind", ["gaussian_noise", "gaussian_blur", "contrast", "brightness", "jpeg"]
)
def test_corrupted_traffic_is_noticed_within_a_short_window(
    kind: str,
    monitor: DriftMonitor,
    artifact: Artifact,
    photos: NDArray[np.uint8],
    caplog: pytest.LogCaptureFixture,
) -> None:
    send(monitor, artifact, photos[:300])
    assert caplog.messages == []
    send(monitor, artifact, corrupt(photos[300:600], kind, 3))
    assert "drift raised" in caplog.messages
    assert monitor.state().windows[0].raised
