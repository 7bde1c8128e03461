"""Facts of the real data: what its descriptions say, and what its users should know."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.data.cifar10 import Records, dataset_digest, locate, read_records
from ml.data.cifar10_files import (
    Mismatch,
    Pin,
    PinError,
    PinnedFile,
    Progress,
    cache_folder,
    locked,
    pin_folder,
    place,
    read_pin,
)
from tests.helpers.waiting import wait_until
from tests.ml.data.tiny_dataset import tiny_dataset

BATCH_BYTES = 10_000 * 3073
# Of the files in the authors' archive, as many public projects state them.
PUBLISHED_MD5 = (
    "5dd7e06a14cb22eb9f671a540d1b7c25",
    "5ea93a67294ea407fff1d09f752e9692",
    "942cd6a4bcdd0dd3c604fbe906cb4421",
    "ae636b3ba5c66a11e91e8cb52e771fcb",
    "53f37980c15c3d472c316c40844f3f0d",
    "803d5f7f4d78ea53de84dbe85f74fb6d",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return locate()


@pytest.fixture(scope="module")
def train(folder: Path) -> Records:
    return read_records(folder / "train.bin")


@pytest.fixture(scope="module")
def test(folder: Path) -> Records:
    return read_records(folder / "test.bin")


def test_the_files_are_the_pinned_ones(folder: Path) -> None:
    assert dataset_digest(folder) == dataset_digest(read_pin())


def test_each_batch_is_the_published_one(folder: Path) -> None:
    content = (folder / "train.bin").read_bytes() + (folder / "test.bin").read_bytes()
    batches = [content[at : at + BATCH_BYTES] for at in range(0, len(content), BATCH_BYTES)]
    assert tuple(_md5(batch) for batch in batches) == PUBLISHED_MD5


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_classes_are_balanced(train: Records, test: Records) -> None:
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10


def test_the_first_labels_are_the_known_ones(train: Records) -> None:
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]


def test_channel_statistics_are_the_published_ones(train: Records) -> None:
    means, stds = _channel_statistics(train.images)
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(stds, [0.2470, 0.2435, 0.2616], atol=5e-5)


def _channel_statistics(
    images: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From the counts of the 256 values, exactly, and without 1.2 GB of floats."""
    values = np.arange(256) / 255
    counts = np.stack([np.bincount(images[:, plane].ravel(), minlength=256) for plane in range(3)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    means = shares @ values
    return means, np.sqrt(shares @ values**2 - means**2)


def test_no_test_image_is_also_a_training_image(train: Records, test: Records) -> None:
    assert not _fingerprints(train.images) & _fingerprints(test.images)


def _fingerprints(images: NDArray[np.uint8]) -> set[bytes]:
    return {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images}


RECORD_BYTES = 3073


def test_the_projects_pin_is_of_fifty_and_ten_thousand_records() -> None:
    pin = read_pin()
    assert (pin.train.name, pin.train.size) == ("train.bin", 50_000 * RECORD_BYTES)
    assert (pin.test.name, pin.test.size) == ("test.bin", 10_000 * RECORD_BYTES)


def test_a_pin_is_read_as_dvc_wrote_it(tmp_path: Path) -> None:
    data = tiny_dataset()
    assert read_pin(data.write_pin(tmp_path / "data.dvc")) == data.pin


def test_other_fields_and_another_order_do_not_matter(tmp_path: Path) -> None:
    pin = tiny_dataset().pin
    outs = "".join(
        f"- path: '{file.name}'\n  # a remark\n  hash: md5\n\n"
        f"  size: {file.size}\n  md5: {file.md5}\n"
        for file in reversed(pin.files)
    )
    text = f"meta:\n  outs: none\nouts:\n{outs}desc: two files\ndeps:\n- path: elsewhere\n"
    (tmp_path / "data.dvc").write_text(text)
    assert read_pin(tmp_path / "data.dvc") == pin


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path: test.bin", "path: other.bin", r"other\.bin"),
        ("hash: md5", "hash: sha256", r"train\.bin.*"),
        ("size: ", "size: about ", r"train\.bin.*"),
        ("md5: ", "md5: x", r"train\.bin.*"),
        ("outs:", "ins:", r"found \[\]"),
    ],
)
def test_a_broken_pin_is_refused_with_its_name(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tiny_dataset().write_pin(tmp_path / "data.dvc")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(PinError, match=message) as error:
        read_pin(path)
    assert str(path) in str(error.value)


def test_a_missing_pin_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(PinError, match=r"data\.dvc"):
        read_pin(tmp_path / "data.dvc")


def test_a_folder_with_the_pinned_bytes_has_the_pins_digest(tmp_path: Path) -> None:
    data = tiny_dataset()
    assert pin_folder(data.write_files(tmp_path)).digest == data.pin.digest


def test_the_digest_changes_with_any_fact_of_the_pin() -> None:
    train, test = PinnedFile("train.bin", "a" * 32, 1), PinnedFile("test.bin", "b" * 32, 2)
    pins = [
        Pin(train, test),
        Pin(train, PinnedFile("test.bin", "c" * 32, 2)),
        Pin(PinnedFile("train.bin", "a" * 32, 3), test),
        Pin(PinnedFile("train.bin", "b" * 32, 1), PinnedFile("test.bin", "a" * 32, 2)),
    ]
    assert len({pin.digest for pin in pins}) == len(pins)


def test_a_wrong_file_is_told_with_both_hashes(tmp_path: Path) -> None:
    data = tiny_dataset()
    (data.write_files(tmp_path) / "test.bin").write_bytes(b"other")
    with pytest.raises(Mismatch) as error:
        data.pin.check(tmp_path)
    message = str(error.value)
    found = pin_folder(tmp_path).test.md5
    assert str(tmp_path / "test.bin") in message
    assert f" {data.pin.test.md5}" in message
    assert f"found {found}" in message


def test_a_missing_file_is_told_with_the_expected_hash(tmp_path: Path) -> None:
    pin = tiny_dataset().pin
    with pytest.raises(Mismatch, match=f"train.bin .*{pin.train.md5}"):
        pin.check(tmp_path)


DATA = tiny_dataset()


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return DATA.write_files(tmp_path / "entry")


def test_placed_files_share_their_bytes_with_the_cache(entry: Path, tmp_path: Path) -> None:
    place(DATA.pin, entry, tmp_path / "new" / "output")
    for name in ("train.bin", "test.bin"):
        assert (tmp_path / "new" / "output" / name).samefile(entry / name)


def test_files_are_copied_where_links_are_impossible(
    entry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    place(DATA.pin, entry, tmp_path / "output")
    DATA.pin.check(tmp_path / "output")
    assert not (tmp_path / "output" / "train.bin").samefile(entry / "train.bin")


def test_placing_again_keeps_what_is_right(entry: Path, tmp_path: Path) -> None:
    output = DATA.write_files(tmp_path / "output")
    before = [(output / name).stat() for name in ("train.bin", "test.bin")]
    place(DATA.pin, entry, output)
    assert [(output / name).stat() for name in ("train.bin", "test.bin")] == before


def test_an_older_dataset_is_replaced_and_leftovers_go(entry: Path, tmp_path: Path) -> None:
    output = tiny_dataset(seed=1).write_files(tmp_path / "output")
    (output / ".train.bin.partial-123").write_bytes(b"half")
    (output / "notes.txt").write_text("mine")
    place(DATA.pin, entry, output)
    DATA.pin.check(output)
    assert {path.name for path in output.iterdir()} == {"train.bin", "test.bin", "notes.txt"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"KILN_CACHE": "/kiln", "XDG_CACHE_HOME": "/xdg"}, "/kiln/cifar10"),
        ({"KILN_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/kiln/cifar10"),
        ({"HOME": "/home/me"}, "/home/me/.cache/kiln/cifar10"),
        ({"KILN_CACHE": "~/kiln", "HOME": "/home/me"}, "/home/me/kiln/cifar10"),
    ],
)
def test_the_cache_lies_where_the_environment_says(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KILN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_whoever_waits_for_another_fetch_says_so_again_and_again(tmp_path: Path) -> None:
    said = io.StringIO()
    progress = Progress(said)
    progress._interval_s = 0.0

    def wait() -> None:
        with locked(DATA.pin, tmp_path, progress):
            pass

    thread = threading.Thread(target=wait)
    with (tmp_path / f".{DATA.pin.digest[:12]}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread.start()
        wait_until(lambda: said.getvalue().count("waiting") >= 3)
    thread.join(10)

    assert not thread.is_alive()
