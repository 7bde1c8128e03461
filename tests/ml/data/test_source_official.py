from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from ml.data.cifar10_pin import Mismatch, PinnedFile
from ml.data.source import OfficialSource, Progress, SourceError
from tests.ml.data.loopback import Response, serve
from tests.ml.data.tiny_dataset import tar_gz, tiny_dataset

DATA = tiny_dataset()
ARCHIVE = DATA.official_archive()
PATH = "/cifar-10-binary.tar.gz"


def source(address: str, archive: bytes = ARCHIVE, open_limit_s: float = 10.0) -> OfficialSource:
    md5 = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    return OfficialSource(address + PATH, PinnedFile(PATH[1:], md5, len(archive)), open_limit_s)


def deliver(answer: Response | bytes, folder: Path, archive: bytes = ARCHIVE) -> None:
    with serve({PATH: answer}) as address:
        source(address, archive).deliver(DATA.pin, folder, Progress())


def test_the_archives_batches_become_both_files(tmp_path: Path) -> None:
    deliver(ARCHIVE, tmp_path)
    DATA.pin.check(tmp_path)


def test_an_archive_with_other_bytes_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    damaged = ARCHIVE[:-1] + bytes([ARCHIVE[-1] ^ 1])
    with pytest.raises(Mismatch, match=r"cifar-10-binary\.tar\.gz"):
        deliver(damaged, tmp_path)
    assert not (tmp_path / "train.bin").exists()


def test_a_body_that_breaks_off_is_refused(tmp_path: Path) -> None:
    half = Response(ARCHIVE[: len(ARCHIVE) // 2], claimed=len(ARCHIVE))
    with pytest.raises(Mismatch, match=rf"\({len(ARCHIVE) // 2} bytes\)"):
        deliver(half, tmp_path)


def test_a_body_without_end_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="sends more than the expected"):
        deliver(ARCHIVE * 3, tmp_path)


def test_an_archive_without_a_batch_names_it(tmp_path: Path) -> None:
    archive = tar_gz({"cifar-10-batches-bin/data_batch_1.bin": DATA.test})
    with pytest.raises(SourceError, match=r"data_batch_2\.bin, .*test_batch\.bin"):
        deliver(archive, tmp_path, archive)


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be unpacked"):
        deliver(b"<html>", tmp_path, b"<html>")


def test_paths_and_links_of_an_archive_are_never_used(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        escape = tarfile.TarInfo("../escaped")
        tar.addfile(escape, io.BytesIO())
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(SourceError, match=r"lacks .*test_batch\.bin"):
        deliver(packed.getvalue(), inside, packed.getvalue())
    assert list(tmp_path.iterdir()) == [inside]


def test_an_error_status_is_told(tmp_path: Path) -> None:
    with serve({}) as address, pytest.raises(SourceError, match="answered 404"):
        source(address).deliver(DATA.pin, tmp_path, Progress())


def test_a_server_that_never_answers_is_left_soon(tmp_path: Path) -> None:
    silent = Response(ARCHIVE, waits=True)
    with (
        serve({PATH: silent}) as address,
        pytest.raises(SourceError, match=r"0\.2 s"),
    ):
        source(address, open_limit_s=0.2).deliver(DATA.pin, tmp_path, Progress())


def test_a_closed_port_is_told(tmp_path: Path) -> None:
    with serve({}) as address:
        pass
    with pytest.raises(SourceError, match="is not reachable"):
        source(address).deliver(DATA.pin, tmp_path, Progress())
