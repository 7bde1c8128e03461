"""ml/drift/stream.py: images that a run has not seen, as traffic for a rehearsal."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import OmegaConf

from common.golden import read_golden_set
from ml.data.cifar10 import DatasetError, stratified_split
from ml.drift import stream

CFG = OmegaConf.create({})


class Data:
    """A hundred images, each of its own shade, of two classes; 20 are for validation."""

    classes, seed = ("cat", "dog"), 3
    labels = np.arange(100) % 2

    def __init__(self, train_size: int | None) -> None:
        self.train_size = train_size

    def divide(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return stratified_split(labels, 20, self.seed)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run folder that trained on 50 images."""
    opened(monkeypatch, Data(50))
    (tmp_path / "config.yaml").write_text("{}\n")
    return tmp_path


def opened(monkeypatch: pytest.MonkeyPatch, data: Data) -> None:
    shades = np.arange(100, dtype=np.uint8)[:, None, None, None]
    pixels = np.broadcast_to(shades, (100, 3, 8, 8))
    monkeypatch.setattr(stream, "open_data", lambda cfg: data)
    monkeypatch.setattr(stream, "checked_part", lambda data, part: (pixels, Data.labels))


def shades_of(images: Any) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


def test_what_was_trained_or_validated_on_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(50)
    opened(monkeypatch, data)
    images, labels, classes = stream.unseen(CFG)
    train, validation = data.divide(Data.labels)
    _, chosen = stratified_split(Data.labels[train], 50, data.seed)
    shown = shades_of(images)
    assert len(set(shown)) == 30
    assert not {*shown} & {*train[chosen].tolist(), *validation.tolist()}
    assert labels.tolist() == [shade % 2 for shade in shown]
    assert classes == ("cat", "dog")


def test_parts_share_no_image_and_are_the_same_each_time(run: Path) -> None:
    names = []
    for skip in (0, 20, 0):
        file = run / "stream.zip"
        assert stream.main([str(run), str(file), "--skip", str(skip), "--images", "20"]) == 0
        names.append([image.data for image in read_golden_set(file).images])
    first, second, again = names
    assert (len(first), len(second)) == (20, 10)
    assert not {*first} & {*second}
    assert first == again


def test_a_corruption_changes_the_pixels_alone(run: Path) -> None:
    plain, noisy = run / "plain.zip", run / "noisy.zip"
    assert stream.main([str(run), str(plain)]) == 0
    assert stream.main([str(run), str(noisy), "--corruption", "contrast:3"]) == 0
    one, other = read_golden_set(plain).images, read_golden_set(noisy).images
    assert [image.label for image in one] == [image.label for image in other]
    assert read_golden_set(noisy).name == "unseen, contrast:3"


def test_what_cannot_be_used_is_said(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(run / "stream.zip")
    assert stream.main([str(run), out, "--skip", "30"]) == 2
    assert stream.main([str(run), out, "--corruption", "fog"]) == 2
    assert stream.main([str(run / "none"), out]) == 2
    assert not Path(out).exists()
    opened(monkeypatch, Data(None))
    with pytest.raises(DatasetError, match="train_size"):
        stream.unseen(CFG)
    capsys.readouterr()
