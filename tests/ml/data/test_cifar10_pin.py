from __future__ import annotations

from pathlib import Path

import pytest

from ml.data.cifar10_pin import Mismatch, Pin, PinError, PinnedFile, pin_folder, read_pin
from tests.ml.data.tiny_dataset import tiny_dataset

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
        ("path: test.bin", "path: other.bin", "should pin train.bin and test.bin"),
        ("hash: md5", "hash: sha256", "train.bin needs an md5"),
        ("size: ", "size: about ", "train.bin needs an md5"),
        ("md5: ", "md5: x", "train.bin needs an md5"),
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
    with pytest.raises(PinError, match="restore it from version control"):
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
