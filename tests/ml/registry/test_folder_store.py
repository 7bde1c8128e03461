"""common/objects.py: what it asks of the file system, so that no object is half there."""

import errno
import gc
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.objects import FolderStore, StoreError


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The path of every file and folder that was flushed to the disk, in order."""
    paths: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: paths.append(os.readlink(f"/proc/self/fd/{handle}"))
    )
    return paths


def test_an_object_and_every_new_folder_outlast_a_power_cut(
    tmp_path: Path, flushed: list[str]
) -> None:
    store = FolderStore(tmp_path / "new" / "registry")
    assert store.create("a/b/c.json", b"data")
    assert Path(flushed[0]).parent == store.root / ".unfinished"
    folders = {Path(path) for path in flushed[1:]}
    assert folders == {tmp_path, *(tmp_path / p for p in ("new", "new/registry"))} | {
        store.root / "a",
        store.root / "a/b",
    }
    flushed.clear()
    assert store.create("a/b/d.json", b"data")
    assert [Path(path) for path in flushed[1:]] == [store.root / "a/b"]


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[[int, Any], int] = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    assert FolderStore(tmp_path).create("a", b"0123456789")
    assert FolderStore(tmp_path).read("a") == b"0123456789"


def test_no_handle_stays_open(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests have left open
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        FolderStore(tmp_path).create(f"a/{number}", b"")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640), (0o000, 0o666)])
def test_objects_are_readable_as_the_user_allows(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        FolderStore(tmp_path).create("a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_what_a_killed_writer_left_is_no_entry(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.create("b", b"12")
    (tmp_path / ".unfinished" / "0123").write_bytes(b"half")
    assert [entry.key for entry in store.entries("")] == ["b"]
    [left] = store.unfinished()
    assert (left.key, left.size) == (".unfinished/0123", 4)
    assert left.modified == (tmp_path / ".unfinished/0123").stat().st_mtime
    store.delete(left.key)
    assert store.unfinished() == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "the disk")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"^the disk .*: No space left on device$"):
        FolderStore(tmp_path).create("a", b"data")
    assert FolderStore(tmp_path).unfinished() == FolderStore(tmp_path).entries("") == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_link_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code), str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match=rf"^{tmp_path}/a "):
        FolderStore(tmp_path).create("a", b"")


def test_another_failure_of_a_link_is_not_called_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match="Input/output error"):
        FolderStore(tmp_path).create("a", b"")
