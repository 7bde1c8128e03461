"""CPUs and memory available to this process, container limits included."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_CPUINFO = Path("/proc/cpuinfo")


_BATCH_BYTES = 16 << 20


def batch_within_memory(values: int, most: int) -> int:
    """How many examples of so many float32 values are computed at once: `most` of small ones, fewer
    of large ones, so that the memory taken does not grow with them; at least one."""
    return max(1, min(most, _BATCH_BYTES // (4 * values)))


def available_cpus(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """CPUs of this process's affinity, or its cgroup's quota if that is less; at least one.

    Half a CPU more is not worth a thread that is stopped half of the time: 1.5 counts as one.
    """
    if hasattr(os, "sched_getaffinity"):
        cpus = float(len(os.sched_getaffinity(0)))
    else:  # macOS
        cpus = float(os.cpu_count() or 1)
    for quota in _quotas(cgroups, membership):
        cpus = min(cpus, quota)
    return max(1, math.floor(cpus))


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model, to stand beside figures that were measured on it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return os.uname().machine  # where the kernel tells no more, as on macOS


def available_memory(
    cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP, meminfo: Path = _MEMINFO
) -> int | None:
    """Bytes that this process can still take: what the kernel calls available, or what its cgroups
    leave if that is less; None where neither is told, as on macOS."""
    rows = {row[0]: row[1:] for row in _rows(meminfo)}
    available = [int(rows[name][0]) * 1024 for name in ("MemAvailable:",) if name in rows]
    return min([*available, *_memory_left(cgroups, membership)], default=None)


def _memory_left(cgroups: Path, membership: Path) -> Iterator[int]:
    for folder in _folders(cgroups, membership, "memory"):
        for limit_name, usage_name, statistics_name in (
            ("memory.max", "memory.current", "inactive_file"),  # version 2
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
        ):
            limit, usage = _words(folder / limit_name), _words(folder / usage_name)
            if limit and usage and limit[0].isdigit():
                statistics = dict(row for row in _rows(folder / "memory.stat") if len(row) == 2)
                reclaimable = int(statistics.get(statistics_name, 0))
                yield max(0, int(limit[0]) - int(usage[0]) + reclaimable)


def _quotas(cgroups: Path, membership: Path) -> list[float]:
    """Limits that apply: of the own group and of those above it, of either version of cgroups."""
    quotas = []
    for folder in _folders(cgroups, membership, "cpu"):
        limits = (
            _words(folder / "cpu.max"),  # version 2: "quota period", or "max period"
            _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"),  # version 1
        )
        for limit in limits:
            if len(limit) == 2 and all(word.isdigit() for word in limit) and int(limit[1]) > 0:
                quotas.append(int(limit[0]) / int(limit[1]))  # -1 and max mean no limit
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
