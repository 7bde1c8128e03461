"""Resource usage of the process, from /proc."""

import os
import time
from contextlib import suppress
from pathlib import Path

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
