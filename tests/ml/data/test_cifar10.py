from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.data import cifar10
from ml.data.cifar10 import (
    CLASSES,
    DatasetError,
    dataset_digest,
    locate,
    read_records,
    stratified_split,
)
from ml.data.cifar10_files import PIN_FILE, entry_folder, read_pin
from tests.ml.data.tiny_dataset import tiny_dataset

DATA = tiny_dataset()


def test_records_read_back_as_they_were_written(tmp_path: Path) -> None:
    records = read_records(DATA.write_files(tmp_path) / "train.bin")
    assert len(records) == 10
    assert records.images.shape == (10, 3, 32, 32)
    assert [records.images.dtype.name, records.labels.dtype.name] == ["uint8", "int64"]
    rows = np.column_stack([records.labels.astype(np.uint8), records.images.reshape(10, -1)])
    assert rows.tobytes() == DATA.train


def test_planes_are_red_green_blue(tmp_path: Path) -> None:
    path = tmp_path / "one.bin"
    path.write_bytes(b"\x03" + b"\x01" * 1024 + b"\x02" * 1024 + b"\x03" * 1024)
    images = read_records(path).images
    assert [np.unique(images[0, plane]).tolist() for plane in range(3)] == [[1], [2], [3]]


@pytest.mark.parametrize("size", [0, 1, 3072, 3074])
def test_a_file_of_broken_records_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(DatasetError, match=f"train.bin .*{size} bytes.*3073"):
        read_records(path)


def test_a_label_out_of_range_is_refused_with_its_record(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(bytes(3073) + b"\x0a" + bytes(3072))
    with pytest.raises(DatasetError, match=r"record 1 .*label 10, .*0\.\.9"):
        read_records(path)


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"run ml/data/fetch\.py"):
        read_records(tmp_path / "train.bin")


def test_a_folders_digest_is_its_pins(tmp_path: Path) -> None:
    folder = DATA.write_files(tmp_path)
    assert dataset_digest(folder) == dataset_digest(DATA.pin)
    (folder / "test.bin").write_bytes(b"other")
    assert dataset_digest(folder) != dataset_digest(DATA.pin)


@given(
    per_class=st.lists(st.integers(3, 20), min_size=2, max_size=10),
    share=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_a_split_is_stratified_disjoint_complete_and_repeatable(
    per_class: list[int], share: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(
        np.repeat(np.arange(len(per_class)), per_class)
    )
    train, validation = stratified_split(labels, share * len(per_class), seed)
    assert np.bincount(labels[validation], minlength=len(per_class)).tolist() == [share] * len(
        per_class
    )
    np.testing.assert_array_equal(
        np.sort(np.concatenate([train, validation])), np.arange(len(labels))
    )
    for again, first in zip(
        stratified_split(labels, share * len(per_class), seed), (train, validation), strict=True
    ):
        np.testing.assert_array_equal(again, first)


def test_another_seed_gives_another_split() -> None:
    labels = np.repeat(np.arange(10), 50)
    first, second = (stratified_split(labels, 100, seed)[1] for seed in (0, 1))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (15, "multiple of 10 classes"),
        (-10, "multiple of 10 classes"),
        (60, "takes 6 per class, one has 5"),
    ],
)
def test_a_validation_size_that_cannot_be_equal_is_refused(size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stratified_split(np.repeat(np.arange(10), 5), size, seed=0)


def test_there_are_ten_classes_in_the_published_order() -> None:
    assert (CLASSES[0], CLASSES[6], CLASSES[9], len(CLASSES)) == ("airplane", "frog", "truck", 10)


def test_a_folder_that_the_environment_names_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_CIFAR10", str(DATA.write_files(tmp_path)))
    assert locate() == tmp_path


def test_a_named_folder_without_the_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_CIFAR10", str(tmp_path))
    with pytest.raises(DatasetError, match=r"train\.bin and test\.bin"):
        locate()


def test_a_bazel_program_finds_the_repository_in_its_runfiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KILN_CIFAR10", raising=False)
    DATA.write_files(tmp_path / "+cifar10+cifar10")
    mapping = ",kiln,_main\n,cifar10,+cifar10+cifar10\nrules_python+,cifar10,other\n"
    (tmp_path / "_repo_mapping").write_text(mapping)
    monkeypatch.setattr(cifar10, "__file__", str(tmp_path / "_main" / "ml" / "data" / "cifar10.py"))
    assert locate() == tmp_path / "+cifar10+cifar10"


def test_elsewhere_the_machines_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KILN_CIFAR10", raising=False)
    monkeypatch.setattr(cifar10, "__file__", str(tmp_path / "ml" / "data" / "cifar10.py"))
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KILN_DVC_REMOTE", str(DATA.write_remote(tmp_path / "remote")))
    monkeypatch.setattr("ml.data.fetch.read_pin", lambda: DATA.pin)
    assert locate() == entry_folder(DATA.pin, tmp_path / "cache" / "cifar10")
    assert "fetched from dvc" in capsys.readouterr().err


def test_the_pin_lies_beside_the_reader() -> None:
    assert PIN_FILE.name == "cifar10.dvc"
    assert dataset_digest(read_pin()) == read_pin().digest
