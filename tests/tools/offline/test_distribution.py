"""The pins of a hashed lock, and what the distributions that it installs consist of and need."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.offline.pypi_hub.distribution import (
    HubError,
    LockError,
    Pin,
    evaluator,
    is_kept,
    normalise,
    parse_lock,
    read_distributions,
    required,
)

HASH = "--hash=sha256:" + "0" * 64


def test_a_pin_keeps_its_name_version_extras_marker_and_hashes() -> None:
    lock = f"""\
# made by a tool
Cuda-Toolkit[cublas, cudart]==13.0.3.0 ; sys_platform == 'linux' \\
    {HASH} \\
    --hash=sha256:{"1" * 64}
    # via torch
six==1.17.0 \\
    {HASH}
"""
    toolkit, six = parse_lock(lock)

    assert (toolkit.name, toolkit.version) == ("cuda_toolkit", "13.0.3.0")
    assert toolkit.extras == {"cublas", "cudart"}
    assert toolkit.marker == "sys_platform == 'linux'"
    assert toolkit.hashes == ("sha256:" + "0" * 64, "sha256:" + "1" * 64)
    assert (six.name, six.extras, six.marker) == ("six", frozenset(), "")


@pytest.mark.parametrize(
    ("lock", "reason"),
    [
        ("six==1.17.0\n", "six has no --hash"),
        (f"six>=1.17.0 {HASH}\n", "expected `name==version"),
        ("-r other.txt\n", "expected `name==version"),
        (f"six==1.0 {HASH}\nSix==1.1 {HASH}\n", "six is pinned twice"),
    ],
)
def test_a_lock_that_does_not_pin_everything_is_refused(lock: str, reason: str) -> None:
    with pytest.raises(LockError, match=reason):
        parse_lock(lock)


@given(st.from_regex(r"[A-Za-z0-9]+([-_.]+[A-Za-z0-9]+)*", fullmatch=True))
def test_spellings_of_a_name_share_one_label(name: str) -> None:
    assert (
        normalise(name) == normalise(normalise(name)) == normalise(name.replace("_", "-").upper())
    )


def pin(name: str, *extras: str, marker: str = "") -> Pin:
    return Pin(name, "1.0", frozenset(extras), marker, ("sha256:0",), name)


def install(folder: Path, name: str, files: dict[str, str], *requires: str) -> None:
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    everything = {**files, f"{info}/METADATA": metadata}
    record = "".join(f"{path},,\n" for path in (*everything, f"{info}/RECORD"))
    for path, content in {**everything, f"{info}/RECORD": record}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)


def test_only_requirements_that_apply_here_are_needed(tmp_path: Path) -> None:
    requirements = [
        "Needed.Always>=1",
        "windows-only; sys_platform == 'win32'",
        "asked-for; extra == 'fast'",
        "not-asked-for; extra == 'slow'",
    ]
    names = required(requirements, pin("a", "fast"), evaluator(tmp_path))
    assert names == {"needed_always", "asked_for"}


def test_an_extra_that_names_another_extra_brings_its_requirements(tmp_path: Path) -> None:
    requirements = ["a[two]; extra == 'one'", "a[three]; extra == 'two'", "b; extra == 'three'"]
    assert required(requirements, pin("a", "one"), evaluator(tmp_path)) == {"b"}


def test_headers_of_torch_stay_on_the_disk_and_in_no_target(tmp_path: Path) -> None:
    for name in ("torch", "other"):
        install(tmp_path, name, {f"{name}/__init__.py": "", f"{name}/include/{name}.h": ""})

    found = read_distributions(tmp_path, [pin("torch"), pin("other")], evaluator(tmp_path))

    assert found["torch"].headers == ("torch/include/torch.h",)
    assert found["other"].headers == ()
    assert not any(path.endswith(".h") for each in found.values() for path in each.files)


def test_files_are_sorted_into_sources_data_programs_and_metadata(tmp_path: Path) -> None:
    files = {"a/__init__.py": "", "a/py.typed": "", "bin/a-native": "", "bin/a-script": ""}
    files["a-1.0.dist-info/entry_points.txt"] = "[console_scripts]\na-script = a:main\n"
    install(tmp_path, "a", files)

    found = read_distributions(tmp_path, [pin("a")], evaluator(tmp_path))["a"]

    assert found.sources == ("a/__init__.py",)
    assert "a/py.typed" in found.data
    assert found.programs == ("bin/a-native",)
    assert "a-1.0.dist-info/entry_points.txt" in found.metadata


def test_a_pin_for_another_system_is_not_expected_here(tmp_path: Path) -> None:
    install(tmp_path, "a", {})
    pins = [pin("a"), pin("winapi", marker="sys_platform == 'win32'")]
    assert set(read_distributions(tmp_path, pins, evaluator(tmp_path))) == {"a"}


def test_a_requirement_that_the_lock_lacks_is_named(tmp_path: Path) -> None:
    install(tmp_path, "a", {}, "b>=2")
    with pytest.raises(HubError, match=r"\ba\b.*\bb\b"):
        read_distributions(tmp_path, [pin("a")], evaluator(tmp_path))


def test_a_pin_that_was_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"\ba\b"):
        read_distributions(tmp_path, [pin("a")], evaluator(tmp_path))


@pytest.mark.parametrize(
    "path",
    ["torch/include/ATen/ATen.h", "sympy/core/tests/test_expr.py", "torch/lib/libx.a", "../../x"],
)
def test_what_no_program_reads_is_left_out(path: str) -> None:
    assert not is_kept("torch", path)


@pytest.mark.parametrize(
    "path", ["torch/lib/libtorch.so", "numpy/testing/__init__.py", "jinja2/tests.py", "a/b.pyi"]
)
def test_what_a_program_may_read_is_kept(path: str) -> None:
    assert is_kept("any", path)


def test_triton_keeps_the_headers_that_it_compiles_with() -> None:
    assert is_kept("triton", "triton/backends/nvidia/include/cuda.h")
