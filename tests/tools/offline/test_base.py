"""The base image."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

import pytest

from common.oci import write_layer
from tools.offline.oci_layout.base import CERTIFICATES, PYTHON, entries, package_records


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Packages as they are unpacked."""
    files = {
        PYTHON: "program",
        "usr/bin/openssl": "program",
        "usr/share/doc/libc6/copyright": "terms",
        "usr/share/doc/libc6/changelog.gz": "",
        "usr/share/man/man1/a.1.gz": "",
        "usr/share/ca-certificates/mozilla/B.crt": "second\n",
        "usr/share/ca-certificates/mozilla/A.crt": "first",
        "lib/x86_64-linux-gnu/libc.so.6": "library",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / PYTHON).chmod(0o755)
    (tmp_path / "lib64").symlink_to("lib")
    return tmp_path


def test_python_is_the_only_program(root: Path) -> None:
    programs = {entry.path for entry in entries(root) if entry.path.startswith("usr/bin/")}
    assert programs == {PYTHON, "usr/bin/python", "usr/bin/python3"}


def test_licences_stay_and_manuals_go(root: Path) -> None:
    paths = {entry.path for entry in entries(root)}
    assert "usr/share/doc/libc6/copyright" in paths
    assert not [path for path in paths if "changelog" in path or "/man/" in path]


def test_every_parent_folder_comes_before_what_it_holds(root: Path) -> None:
    seen = {"."}
    for entry in entries(root):
        assert str(PurePosixPath(entry.path).parent) in seen
        seen.add(entry.path)


def test_certificates_are_bundled(root: Path) -> None:
    (bundle,) = [entry.data for entry in entries(root) if entry.path == CERTIFICATES]
    assert bundle == b"first\nsecond\n"


def test_a_layer_depends_on_contents_alone(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp_path = tmp_path_factory.mktemp("layers")
    one, two = tmp_path / "1.tar.gz", tmp_path / "2.tar.gz"
    write_layer(entries(root), one)
    (root / PYTHON).touch()
    write_layer(entries(root), two)
    assert one.read_bytes() == two.read_bytes()


def test_links_and_rights_are_kept(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("layers")
    write_layer(entries(root), tmp_path / "layer.tar.gz")
    with tarfile.open(tmp_path / "layer.tar.gz") as layer:
        assert layer.getmember(PYTHON).mode == 0o755
        assert layer.getmember("lib64").linkname == "lib"
        assert layer.getmember("home/nonroot").uid == 65532
        assert layer.getmember("tmp").mode == 0o1777


def test_packages_without_python_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"hold no usr/bin/python3\.11"):
        entries(tmp_path)


def test_each_package_is_on_record() -> None:
    deb = {"package": "zlib1g", "version": "1.2", "path": "pool/z/zlib1g_1.2_amd64.deb"}
    (record,) = package_records([deb | {"size": 5, "sha256": "ab"}])
    assert record.path == "var/lib/dpkg/status.d/zlib1g"
    assert isinstance(record.data, bytes)
    assert record.data.decode().splitlines()[:3] == [
        "Package: zlib1g",
        "Version: 1.2",
        "Architecture: amd64",
    ]
