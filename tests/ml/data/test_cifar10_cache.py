from __future__ import annotations

import fcntl
import io
import os
import threading
from pathlib import Path

import pytest

from ml.data.cifar10_cache import cache_folder, locked, place
from ml.data.source import Progress
from tests.helpers.waiting import wait_until
from tests.ml.data.tiny_dataset import tiny_dataset

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
