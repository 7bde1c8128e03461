"""Debian 12's Python for a machine that has another: real packages of its shape, no network."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.apt_repository import MISSING, WHY_SKIPPED, AptRepository, Server, served, signer
from tools.provision import python
from tools.provision.apt import Mirror
from tools.provision.cache import NotOfferedError, ProvisionError

needs_apt = pytest.mark.skipif(bool(MISSING), reason=WHY_SKIPPED)


def program(name: str) -> bytes:
    found = shutil.which(name)
    assert found, name
    return Path(found).read_bytes()


@pytest.fixture
def stands_for_python() -> str:
    """The program that the interpreter of the package is."""
    return "true"


@pytest.fixture
def archive(
    tmp_path: Path, stands_for_python: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(python, "_require_machine", lambda: None)
    files: dict[str, str | bytes] = {
        str(python.PYTHON): program(stands_for_python),
        "usr/share/doc/python/copyright": "",
    }
    with signer() as key:
        repository = AptRepository(tmp_path / "archive", python.SUITE)
        repository.add("python3.11-minimal", files, depends="libc6, libexpat1")
        repository.add("libpython3.11-stdlib", {"usr/lib/python3.11/ssl.py": ""})
        repository.add("python3-pip", {"usr/lib/python3/dist-packages/pip/__init__.py": ""})
        repository.add("patchelf", {"usr/bin/patchelf": program("true")})
        repository.add("libc6", {"lib/libc.so.6": "not the machine's"})
        repository.add("libexpat1", {"lib/libexpat.so.1": "a library"})
        repository.publish(key)
        with served(repository) as server:
            mirrors = [Mirror(server.url, key.keyring)]
            monkeypatch.setattr(python, "machine_mirrors", lambda: mirrors)
            yield server


@needs_apt
def test_it_becomes_a_folder_with_its_libraries_but_the_machines_c_library(
    archive: Server, tmp_path: Path
) -> None:
    target = tmp_path / "cache/python/debian-12-x"

    python.provision(target)
    archive.requested.clear()
    python.provision(target)

    assert archive.requested == []
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert files == {
        "lib/libexpat.so.1",
        "usr/bin/patchelf",
        "usr/bin/python3.11",
        "usr/lib/python3/dist-packages/pip/__init__.py",
        "usr/lib/python3.11/ssl.py",
    }


@needs_apt
@pytest.mark.parametrize("stands_for_python", ["false"])
def test_one_that_lacks_a_module_is_an_error_and_nothing_stays(
    archive: Server, tmp_path: Path
) -> None:
    target = tmp_path / "cache/python/debian-12-x"

    with pytest.raises(ProvisionError, match=r"python3\.11 failed"):
        python.provision(target)

    assert [path.name for path in target.parent.iterdir()] == [".debian-12-x.lock"]


@pytest.mark.parametrize(
    ("system", "machine", "library"),
    [
        ("Darwin", "arm64", ("", "")),
        ("Linux", "aarch64", ("glibc", "2.41")),
        ("Linux", "x86_64", ("glibc", "2.31")),
        ("Linux", "x86_64", ("", "")),
    ],
)
def test_machines_that_cannot_run_it_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    machine: str,
    library: tuple[str, str],
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: library)

    with pytest.raises(NotOfferedError):
        python.provision(tmp_path / "debian-12-x")
