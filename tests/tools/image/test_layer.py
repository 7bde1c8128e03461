"""Layers: which files they take, and that their bytes depend on nothing else."""

from __future__ import annotations

import gzip
import importlib.util
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.oci import Entry, with_parents, write_layer
from tools.image import layer
from tools.image.layer import LayerError, cached, compiled, wanted


def write(folder: Path, name: str, content: bytes = b"") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def made(tmp_path: Path, output: str, *arguments: str) -> tarfile.TarFile:
    assert layer.main([f"--output={tmp_path / output}", *arguments]) == 0
    return tarfile.open(tmp_path / output)


def test_a_layer_holds_files_in_their_places_with_every_parent(tmp_path: Path) -> None:
    source = write(tmp_path, "a.txt", b"text")
    with made(tmp_path, "out.tar.gz", "--folder=opt/app", f"data/a.txt={source}") as archive:
        assert archive.getnames() == ["opt", "opt/app", "opt/app/data", "opt/app/data/a.txt"]
        file = archive.extractfile("opt/app/data/a.txt")
        assert file is not None
        assert file.read() == b"text"
        assert {(m.uid, m.gid, m.mtime) for m in archive} == {(0, 0, 0)}
        assert {m.mode for m in archive if m.isdir()} == {0o755}


def test_the_same_files_are_the_same_bytes(tmp_path: Path) -> None:
    sources = [write(tmp_path, f"{name}.py", f"{name} = {{'a', 'b'}}".encode()) for name in "xyz"]
    files = [f"{source.name}={source}" for source in sources]
    made(tmp_path, "one.tar.gz", "--compile", *files).close()
    for source in sources:
        source.chmod(0o755)
        source.touch()
    made(tmp_path, "two.tar.gz", "--compile", *reversed(files)).close()
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_the_gzip_header_tells_neither_name_nor_time(tmp_path: Path) -> None:
    made(tmp_path, "out.tar.gz", f"a={write(tmp_path, 'a')}").close()
    header = (tmp_path / "out.tar.gz").read_bytes()[:10]
    assert header[3] == 0  # no name
    assert header[4:8] == bytes(4)


def test_types_libraries_to_link_and_foreign_bytecode_stay_out(tmp_path: Path) -> None:
    source = write(tmp_path, "file")
    places = [
        "a/__init__.py",
        "a/__init__.pyi",
        "a/py.typed",
        "a/__pycache__/a.cpython-311.pyc",
        "a/liba.a",
        "a/testing.py",
    ]
    assert list(wanted([(place, source) for place in places], [])) == [
        "a/__init__.py",
        "a/testing.py",
    ]


def test_of_metadata_only_what_is_served_and_licences_stay(tmp_path: Path) -> None:
    source = write(tmp_path, "file")
    kept = ["METADATA", "entry_points.txt", "licenses/LICENSE.txt", "LICENSE"]
    dropped = ["RECORD", "INSTALLER", "WHEEL", "top_level.txt", "sboms/auditwheel.cdx.json"]
    places = [f"a-1.dist-info/{name}" for name in kept + dropped]
    assert list(wanted([(place, source) for place in places], [])) == places[: len(kept)]


def test_a_pattern_leaves_files_out(tmp_path: Path) -> None:
    source = write(tmp_path, "file")
    files = [(place, source) for place in ("a/b/c.py", "a/d.py")]
    assert list(wanted(files, ["a/b/*"])) == ["a/d.py"]


def test_patterns_divide_packages_among_layers(tmp_path: Path) -> None:
    source = write(tmp_path, "file")
    files = [(place, source) for place in ("nvidia/a.so", "nvidia_x-1.dist-info/METADATA", "b.py")]
    one, rest = wanted(files, [], only=["nvidia*"]), wanted(files, ["nvidia*"])
    assert one.keys() | rest.keys() == {place for place, _ in files}
    assert not one.keys() & rest.keys()


def test_equal_files_may_share_a_place_and_different_ones_may_not(tmp_path: Path) -> None:
    one, same, other = (write(tmp_path, name, name[:1].encode()) for name in ("a1", "a2", "b"))
    assert wanted([("x", one), ("x", same)], []) == {"x": one}
    with pytest.raises(LayerError):
        wanted([("x", one), ("x", other)], [])


@pytest.mark.parametrize("place", ["../a", "/etc/passwd", "a/../../b"])
def test_a_place_outside_the_folder_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(LayerError):
        wanted([(place, write(tmp_path, "file"))], [])


def test_an_empty_layer_is_a_mistake(tmp_path: Path) -> None:
    output = tmp_path / "out.tar.gz"
    files = f"a.pyi={write(tmp_path, 'a')}"
    assert layer.main([f"--output={output}", files]) == 1
    assert not output.exists()


def test_programs_may_be_run_and_libraries_are_only_read(tmp_path: Path) -> None:
    program = write(tmp_path, "p", b"\x7fELF\x02 /lib64/ld-linux-x86-64.so.2")
    library = write(tmp_path, "l", b"\x7fELF\x02")
    script = write(tmp_path, "s", b"#!/usr/bin/python3")
    files = [f"{path.name}={path}" for path in (program, library, script)]
    with made(tmp_path, "out.tar.gz", *files) as archive:
        modes = {member.name: member.mode for member in archive}
    assert modes == {"p": 0o755, "l": 0o644, "s": 0o755}


def test_bytecode_is_taken_without_a_look_at_the_source(tmp_path: Path) -> None:
    write(tmp_path, "m.py", b"value = 'newer'")
    code = compiled(b"value = 'compiled'", "/m.py")
    assert code is not None
    write(tmp_path, cached("m.py"), code)
    spec = importlib.util.spec_from_file_location("m", tmp_path / "m.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.value == "compiled"


def test_what_is_no_python_has_no_bytecode(tmp_path: Path) -> None:
    source = write(tmp_path, "template.py", b"def {{name}}():")
    with made(tmp_path, "out.tar.gz", "--compile", f"template.py={source}") as archive:
        assert archive.getnames() == ["template.py"]


@given(st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)))
def test_parents_come_before_what_they_hold(paths: set[str]) -> None:
    leaves = {path for path in paths if not any(p.startswith(f"{path}/") for p in paths)}
    seen: set[str] = set()
    for entry in with_parents(Entry(path) for path in leaves):
        parent = entry.path.rpartition("/")[0]
        assert not parent or parent in seen
        assert entry.path not in seen
        seen.add(entry.path)


def test_a_layer_is_one_gzip_file(tmp_path: Path) -> None:
    write_layer([Entry("a", data=b"x" * 100_000)], tmp_path / "out")
    with gzip.open(tmp_path / "out") as file:
        assert len(file.read()) > 100_000


def test_effort_changes_the_size_and_not_the_content(tmp_path: Path) -> None:
    source = write(tmp_path, "a", bytes(range(256)) * 500)
    quick, small = tmp_path / "quick.tar.gz", tmp_path / "small.tar.gz"
    made(tmp_path, quick.name, "--effort=1", f"a={source}").close()
    made(tmp_path, small.name, "--effort=9", f"a={source}").close()
    assert quick.stat().st_size > small.stat().st_size
    assert gzip.decompress(quick.read_bytes()) == gzip.decompress(small.read_bytes())
