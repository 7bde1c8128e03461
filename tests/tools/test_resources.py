"""common/resources.py: CPUs and memory that a container grants."""

import os
from pathlib import Path

import pytest

from common.resources import available_cpus, available_memory, cpu_name


def _write(tmp_path: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "self").write_text(membership)
    return tmp_path / "cgroup", tmp_path / "self"


def old_quota(folder: str, quota: str) -> dict[str, str]:
    """As version 1 of cgroups says it."""
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}


@pytest.fixture
def _eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))


@pytest.mark.usefixtures("_eight_processors")
@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/pod/box\n", {"pod/cpu.max": "300000 100000", "pod/box/cpu.max": "max 100000"}, 3),
        ("4:cpu,cpuacct:/box\n", old_quota("cpu/box", "400000"), 4),
        ("4:cpu:/\n", old_quota("cpu", "-1"), 8),
        ("0::/\n", {"cpu.max": "rubbish"}, 8),
    ],
)
def test_a_containers_share_counts(
    tmp_path: Path, membership: str, files: dict[str, str], expected: int
) -> None:
    assert available_cpus(*_write(tmp_path, membership, files)) == expected


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


_MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"
_MIB = 2**20


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {}, 8000000 * 1024),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "1"}, 8000000 * 1024),
        (
            "0::/box\n",
            {"box/memory.max": str(3072 * _MIB), "box/memory.current": str(1024 * _MIB)},
            2048 * _MIB,
        ),
        (  # pages of files that were read can be dropped
            "0::/box\n",
            {
                "box/memory.max": str(3072 * _MIB),
                "box/memory.current": str(1024 * _MIB),
                "box/memory.stat": f"anon 1\ninactive_file {512 * _MIB}\n",
            },
            2560 * _MIB,
        ),
        (
            "9:memory:/box\n",
            {
                "memory/box/memory.limit_in_bytes": str(1024 * _MIB),
                "memory/box/memory.usage_in_bytes": str(2048 * _MIB),
            },
            0,
        ),
    ],
)
def test_memory_is_what_kernel_and_container_leave(
    tmp_path: Path, membership: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "meminfo").write_text(_MEMINFO)
    cgroups, own = _write(tmp_path, membership, files)
    assert available_memory(cgroups, own, tmp_path / "meminfo") == expected


def test_memory_is_unknown_where_nobody_tells(tmp_path: Path) -> None:
    assert available_memory(tmp_path, tmp_path / "self", tmp_path / "meminfo") is None


def test_the_cpu_is_named_as_the_kernel_names_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: AMD EPYC 7B13\n\nprocessor\t: 1\n"
    )
    assert cpu_name(tmp_path / "cpuinfo") == "AMD EPYC 7B13"
    assert cpu_name(tmp_path / "none") == os.uname().machine
