"""What a server's processes hold: memory, open files, and whether it grows."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median

from serve.benchmark.processes import Running, family

_PAGE = os.sysconf("SC_PAGE_SIZE")
_ENOUGH = 200  # samples: every pair of them is looked at


@dataclass(frozen=True)
class Sample:
    """One look at the server."""

    seconds: float
    requests: int
    memory_mb: float  # of all processes, what they share counted once
    resident_mb: dict[int, float] = field(default_factory=dict)  # by process
    open_files: dict[int, int] = field(default_factory=dict)


def look(server: Running, seconds: float = 0.0, requests: int = 0) -> Sample:
    """What its processes hold now."""
    resident, files = dict[int, float](), dict[int, int]()
    for pid in family(server.process):
        with suppress(OSError):  # it ended meanwhile
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            files[pid] = len(os.listdir(f"/proc/{pid}/fd"))
            resident[pid] = pages * _PAGE / 1e6
    return Sample(seconds, requests, server.memory_mb(), resident, files)


def growth(requests: Sequence[int], values: Sequence[float]) -> float:
    """By how much the values grew from the first to the last, by the median of all slopes.

    A step or an outlier does not move it; a leak does. Source: Theil 1950, Sen 1968.

    Raises:
        ValueError: there are fewer than two different places.
    """
    step = max(1, len(values) // _ENOUGH)
    points = list(zip(requests[::step], values[::step], strict=True))
    slopes = [(v - u) / (y - x) for (x, u), (y, v) in combinations(points, 2) if y != x]
    if not slopes:
        raise ValueError("expected values at two different numbers of requests")
    return float(median(slopes)) * (requests[-1] - requests[0])
