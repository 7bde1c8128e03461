"""ml/runs/datasets.py: a model meets its own data or none."""

import hashlib
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ml.data.cifar10 import CLASSES, DatasetError
from ml.data.cifar10_files import read_pin
from ml.data.datamodule import ImageData
from ml.runs import datasets, golden_set
from ml.runs.datasets import (
    DatasetMismatch,
    UnavailableDataset,
    check_same,
    dataset_of,
    dataset_of_file,
)
from ml.runs.folder import config_digest, open_run
from tests.ml.data.tiny_dataset import tiny_dataset

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits(ImageData):
    """Forty images in a file of the user's."""

    classes = _DIGITS
    image_size = (8, 10)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    @property
    def digest(self) -> str:
        """Of the file."""
        return hashlib.sha256((self.folder / "digits.npy").read_bytes()).hexdigest()

    def read(self, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pixels that are their column's number."""
        pixels = np.load(self.folder / "digits.npy")
        return pixels, np.arange(40, dtype=np.int64) % 10


@pytest.fixture
def config(tmp_path: Path) -> DictConfig:
    pixels = np.broadcast_to(np.arange(10, dtype=np.uint8), (40, 3, 8, 10))
    np.save(tmp_path / "digits.npy", pixels)
    data = {
        "_target_": f"{__name__}.Digits",
        "folder": str(tmp_path),
        "batch_size": 10,
        "validation_size": 10,
        "epochs": 1,
        "seed": 0,
    }
    return OmegaConf.create({"name": "digits", "data": data})


def _model(tmp_path: Path, **changes: Any) -> Any:
    digest = hashlib.sha256((tmp_path / "digits.npy").read_bytes()).hexdigest()
    known = {"name": "mine", "classes": _DIGITS, "input_size": (8, 10), "dataset_digest": digest}
    return SimpleNamespace(**known | changes)


def test_the_data_of_a_model_is_opened_by_its_configuration(
    config: DictConfig, tmp_path: Path
) -> None:
    found = dataset_of(_model(tmp_path), config)
    assert (found.name, found.classes, found.image_size) == ("Digits", _DIGITS, (8, 10))
    test = found.read("test")
    assert test.images.shape == (40, 8, 10, 3)
    assert test.images[0, 0, :, 0].tolist() == list(range(10))
    assert test.labels.tolist() == [number % 10 for number in range(40)]
    assert np.bincount(found.read("train").labels).tolist() == [4] * 10


@pytest.mark.parametrize(
    ("change", "found", "expected"),
    [
        ({"classes": CLASSES}, "classes zero, one, two, three", "airplane, automobile"),
        ({"classes": _DIGITS[::-1]}, "zero, one", "nine, eight"),
        ({"classes": _DIGITS[:9]}, r"\(10\)", r"\(9\)"),
        ({"input_size": (10, 8)}, "8 × 10 pixels", "10 × 8 pixels"),
        ({"dataset_digest": "f" * 64}, "digest [0-9a-f]{16}", "f{16};"),
    ],
)
def test_other_data_is_refused_with_the_difference(
    config: DictConfig, tmp_path: Path, change: dict[str, Any], found: str, expected: str
) -> None:
    with pytest.raises(DatasetMismatch, match=rf"^mine .*{found}.*, .*{expected}"):
        dataset_of(_model(tmp_path, **change), config)


def test_a_digits_model_without_its_configuration_is_not_judged_on_cifar10(
    config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KILN_CIFAR10", raising=False)

    def fetch() -> Path:
        raise AssertionError("170 MB to compare two names")

    monkeypatch.setattr(datasets, "locate", fetch)
    with pytest.raises(DatasetMismatch, match=r"CIFAR-10 .*airplane.*zero, one"):
        dataset_of(_model(tmp_path), None)
    own = {"classes": CLASSES, "input_size": (32, 32)}
    with pytest.raises(DatasetMismatch, match=rf" {read_pin().digest[:16]}, "):
        dataset_of(_model(tmp_path, **own), None)
    pinned = dataset_of(_model(tmp_path, **own, dataset_digest=read_pin().digest), None)
    assert pinned.name == "CIFAR-10"


def test_records_become_images_as_models_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_dataset()
    monkeypatch.setenv("KILN_CIFAR10", str(data.write_files(tmp_path)))
    found = datasets.cifar10()
    assert found.digest == data.pin.digest
    images, labels = found.read("test")
    assert images.shape == (2, 32, 32, 3)
    assert labels.tolist() == [data.test[0], data.test[3073]]
    planes = data.test[1:3073]
    assert images[0, 0, 0].tolist() == [planes[0], planes[1024], planes[2048]]


@pytest.mark.parametrize(
    ("values", "mirrored"),
    [
        ({}, True),
        ({"data": {"mirror": False}}, False),
        ({"augmentation": {"mirror": False}}, False),
        ({"data": {"mirror": False}, "augmentation": {"mirror": True}}, True),
    ],
)
def test_whether_mirrored_images_keep_their_class_is_as_they_were_trained(
    config: DictConfig, tmp_path: Path, values: dict[str, Any], mirrored: bool
) -> None:
    augmentation = {"_target_": "ml.data.augmentation.Augmentation"}
    if "augmentation" in values:
        values = {**values, "augmentation": augmentation | values["augmentation"]}
    trained = OmegaConf.merge(config, values)
    assert isinstance(trained, DictConfig)
    assert dataset_of(_model(tmp_path), trained).mirrored == mirrored


def test_data_that_is_not_at_hand_is_told_apart(config: DictConfig, tmp_path: Path) -> None:
    model = _model(tmp_path)
    config.data.folder = str(tmp_path / "gone")
    with pytest.raises(UnavailableDataset, match=r"Digits .*\(FileNotFoundError"):
        dataset_of(model, config)
    config.data._target_ = "nowhere.Digits"
    with pytest.raises(UnavailableDataset, match=r"nowhere.Digits .*PYTHONPATH"):
        dataset_of(model, config)
    assert issubclass(UnavailableDataset, DatasetError)


@pytest.mark.parametrize("place", [".", "export"])
def test_a_run_folder_leads_to_its_data_and_a_foreign_one_does_not(
    config: DictConfig, tmp_path: Path, place: str
) -> None:
    path = open_run(tmp_path / "run", config).path / place / "model.onnx"
    own = _model(tmp_path, config_digest=config_digest(config))
    assert dataset_of_file(path, own).name == "Digits"
    with pytest.raises(DatasetMismatch, match="CIFAR-10"):
        dataset_of_file(path, _model(tmp_path, config_digest="0" * 64))


def test_a_data_module_is_compared_as_well(config: DictConfig, tmp_path: Path) -> None:
    values = {key: value for key, value in config.data.items() if key != "_target_"}
    check_same(_model(tmp_path), Digits(**values))
    other = replace(dataset_of(_model(tmp_path), config), classes=CLASSES)
    with pytest.raises(DatasetMismatch, match="airplane"):
        check_same(_model(tmp_path), other)


def test_a_golden_set_is_made_of_the_models_own_data(
    config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(tmp_path / "run", config)
    run.model.write_bytes(b"")
    own = _model(tmp_path, config_digest=config_digest(config))
    monkeypatch.setattr(golden_set, "read_artifact", lambda data: own)
    name, images = golden_set.of_source(run.path, 25)
    assert name == "Digits"
    assert sorted(image.label for image in images) == sorted(2 * _DIGITS)
    opened = [Image.open(io.BytesIO(image.data)) for image in images]
    assert Counter(image.format for image in opened) == {"PNG": 10, "WEBP": 8, "JPEG": 2}
    pixels = np.asarray(opened[0])
    assert pixels[:, :, 0].tolist() == [list(range(10))] * 8
    own.dataset_digest = "f" * 64
    with pytest.raises(DatasetMismatch):
        golden_set.of_source(run.path, 25)
