"""What this process may use of CPUs and memory, container limits included, and what it uses."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_CPUINFO = Path("/proc/cpuinfo")


_BATCH_BYTES = 16 << 20


def batch_within_memory(values: int, most: int) -> int:
    """Batch size for examples of `values` float32 values within a memory budget: at most `most`, at
    least one.
    """
    return max(1, min(most, _BATCH_BYTES // (4 * values)))


def available_cpus(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """CPUs in this process's affinity mask, or its cgroup quota if lower; at least one.

    Rounded down: a thread on half a CPU would be throttled half of the time.
    """
    if hasattr(os, "sched_getaffinity"):
        cpus = float(len(os.sched_getaffinity(0)))
    else:  # macOS
        cpus = float(os.cpu_count() or 1)
    for quota in _quotas(cgroups, membership):
        cpus = min(cpus, quota)
    return max(1, math.floor(cpus))


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model, recorded beside measurements."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return os.uname().machine  # the kernel may say nothing more, as on macOS


def available_memory(
    cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP, meminfo: Path = _MEMINFO
) -> int | None:
    """Bytes that this process can still allocate: the kernel's MemAvailable, or what its cgroups
    leave if lower; None if unknown, as on macOS.
    """
    rows = {row[0]: row[1:] for row in _rows(meminfo)}
    available = [int(rows[name][0]) * 1024 for name in ("MemAvailable:",) if name in rows]
    return min([*available, *_memory_left(cgroups, membership)], default=None)


def _memory_left(cgroups: Path, membership: Path) -> Iterator[int]:
    for folder in _folders(cgroups, membership, "memory"):
        for limit_name, usage_name, statistics_name in (
            ("memory.max", "memory.current", "inactive_file"),  # cgroup v2
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # cgroup v1
        ):
            limit, usage = _words(folder / limit_name), _words(folder / usage_name)
            if limit and usage and limit[0].isdigit():
                statistics = dict(row for row in _rows(folder / "memory.stat") if len(row) == 2)
                reclaimable = int(statistics.get(statistics_name, 0))
                yield max(0, int(limit[0]) - int(usage[0]) + reclaimable)


def _quotas(cgroups: Path, membership: Path) -> list[float]:
    """Limits of the process's cgroup and its ancestors, v1 and v2."""
    quotas = []
    for folder in _folders(cgroups, membership, "cpu"):
        limits = (
            _words(folder / "cpu.max"),  # v2: "quota period", or "max period"
            _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"),  # v1
        )
        for limit in limits:
            if len(limit) == 2 and all(word.isdigit() for word in limit) and int(limit[1]) > 0:
                quotas.append(int(limit[0]) / int(limit[1]))  # -1 and max mean unlimited
    return [quota for quota in quotas if quota > 0]


def _folders(cgroups: Path, membership: Path, controller: str) -> list[Path]:
    folders = [cgroups, cgroups / controller]
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            own = Path(path.lstrip("/"))
            root = cgroups if controllers == "" else cgroups / controller
            folders += [root / own, *(root / parent for parent in own.parents)]
    return folders


def _words(path: Path) -> list[str]:
    return [word for row in _rows(path) for word in row]


def _rows(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return []


_SELF = Path("/proc/self")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_THREADS, _STARTED = 17, 19  # positions in /proc/self/stat after the name


def cpu_s() -> tuple[float, float]:
    """CPU time so far in seconds: (user, system)."""
    times = os.times()
    return times.user, times.system


def memory_bytes() -> int:
    """Resident memory in bytes."""
    return int((_SELF / "statm").read_text().split()[1]) * _PAGE


def open_files() -> int:
    """Number of open files, sockets and pipes."""
    return len(os.listdir(_SELF / "fd")) - 1  # the listing itself has one open


def threads() -> int:
    """Number of threads, running or waiting."""
    return int(_stat()[_THREADS])


def uptime_s() -> float:
    """Seconds since the process started; 0 if the system does not tell."""
    with suppress(OSError, IndexError, ValueError):
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, now - int(_stat()[_STARTED]) / _TICKS)
    return 0.0


def _stat() -> list[str]:
    return (_SELF / "stat").read_text().rsplit(")", 1)[1].split()
