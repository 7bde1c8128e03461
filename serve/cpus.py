"""How many processors this process may use: of a container's share Python knows nothing."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_cpus(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Processors of this process's affinity, or its cgroup's quota if that is less; at least one.

    Half a processor more is not worth a thread that is stopped half of the time: 1.5 counts as one.
    """
    cpus = float(len(os.sched_getaffinity(0)))
    for quota in _quotas(cgroups, membership):
        cpus = min(cpus, quota)
    return max(1, math.floor(cpus))


def _quotas(cgroups: Path, membership: Path) -> list[float]:
    """Limits that apply: of the own group and of those above it, of either version of cgroups."""
    quotas = []
    for folder in _folders(cgroups, membership):
        limits = (
            _words(folder / "cpu.max"),  # version 2: "quota period", or "max period"
            _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"),  # version 1
        )
        for limit in limits:
            if len(limit) == 2 and all(word.isdigit() for word in limit) and int(limit[1]) > 0:
                quotas.append(int(limit[0]) / int(limit[1]))  # -1 and max mean no limit
    return [quota for quota in quotas if quota > 0]


def _folders(cgroups: Path, membership: Path) -> list[Path]:
    folders = [cgroups, cgroups / "cpu"]
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            own = Path(path.lstrip("/"))
            root = cgroups if controllers == "" else cgroups / "cpu"
            folders += [root / own, *(root / parent for parent in own.parents)]
    return folders


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []
