"""The layer that compiles a base image's standard library."""

from __future__ import annotations

import tarfile
from pathlib import Path

from common.oci import Entry, add_layer, empty_image, with_parents, write_image, write_layer
from tools.image import layer


def base_with(folder: Path, *entries: Entry) -> Path:
    write_layer(with_parents(entries), folder / "base.tar.gz")
    image = add_layer(folder / "base", empty_image("linux", "amd64"), folder / "base.tar.gz", "")
    write_image(folder / "base", image)
    return folder / "base"


def run(base: Path, output: Path) -> int:
    arguments = ["--base", str(base), "--folder", "usr/lib/python3.11", "--output", str(output)]
    return layer.main(arguments)


def test_the_library_is_compiled_beside_its_sources(tmp_path: Path) -> None:
    names = ["usr/lib/python3.11/json/__init__.py", "usr/lib/other.py", "usr/lib/python3.11/a.so"]
    base = base_with(tmp_path, *(Entry(name, data=b"a = 1") for name in names))
    assert run(base, tmp_path / "out.tar.gz") == 0
    with tarfile.open(tmp_path / "out.tar.gz") as archive:
        files = [member.name for member in archive if member.isfile()]
    assert files == ["usr/lib/python3.11/json/__pycache__/__init__.cpython-311.pyc"]


def test_a_base_without_python_is_refused(tmp_path: Path) -> None:
    base = base_with(tmp_path, Entry("etc/passwd"))
    assert run(base, tmp_path / "out.tar.gz") == 1
    assert not (tmp_path / "out.tar.gz").exists()
