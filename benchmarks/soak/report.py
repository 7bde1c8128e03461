"""Verdict and plot of a soak: memory, open files and throughput over time."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.load.servers import Running, family
from benchmarks.soak.traffic import TrafficCounts
from common.figures import COLORS, MUTED, STYLE, new_figure

_PAGE = os.sysconf("SC_PAGE_SIZE")
_ENOUGH = 200  # samples: every pair of them is compared


@dataclass(frozen=True)
class Sample:
    """Resource usage of the server at one time."""

    seconds: float
    requests: int
    memory_mb: float  # of all processes, shared memory once
    resident_mb: dict[int, float] = field(default_factory=dict)  # by process
    open_files: dict[int, int] = field(default_factory=dict)


def look(server: Running, seconds: float = 0.0, requests: int = 0) -> Sample:
    """Resident memory and open files of the server's processes."""
    resident, files = dict[int, float](), dict[int, int]()
    for pid in family(server.process):
        with suppress(OSError):  # it exited meanwhile
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            files[pid] = len(os.listdir(f"/proc/{pid}/fd"))
            resident[pid] = pages * _PAGE / 1e6
    return Sample(seconds, requests, server.memory_mb(), resident, files)


def growth(requests: Sequence[int], values: Sequence[float]) -> float:
    """Growth from first to last value, by the median of all slopes.

    Insensitive to steps and outliers, but not to leaks. Source: Theil 1950, Sen 1968.

    Raises:
        ValueError: there are fewer than two distinct abscissae.
    """
    step = max(1, len(values) // _ENOUGH)
    points = list(zip(requests[::step], values[::step], strict=True))
    slopes = [(v - u) / (y - x) for (x, u), (y, v) in combinations(points, 2) if y != x]
    if not slopes:
        raise ValueError("expected values at two different numbers of requests")
    return float(median(slopes)) * (requests[-1] - requests[0])


WARM_AFTER = 10_000  # requests of the warm-up, in which buffers and thread stacks are allocated
MEMORY_MB = 200.0  # of one process
_GROWTH_MB = 4.0  # of all processes; one leaked response per request is 0.4 GB in a million
_FEW = 8  # fewer samples give no slope
MISTAKES = ("server error", "wrong status", "wrong answer", "no answer")


@dataclass(frozen=True)
class Check:
    name: str
    found: str
    expected: str
    holds: bool


def checks_table(checks: Sequence[Check]) -> Table:
    table = Table(title="Criteria")
    for name in ("check", "found", "expected", ""):
        table.add_column(name)
    for check in checks:
        table.add_row(check.name, check.found, check.expected, "holds" if check.holds else "FAILS")
    return table


def judge(
    tally: TrafficCounts, samples: Sequence[Sample], before: Sample, after: Sample, errors: int
) -> list[Check]:
    """All checks; those of growth only if the run was long enough.

    Args:
        before: the warm server before the first client.
        after: after the last client.
        errors: lines in the server's log.
    """
    checks = [
        Check(name, str(count), "0", count == 0)
        for name in MISTAKES
        for count in [tally.mistakes.get(name, 0)]
    ]
    checks.append(Check("lines in the log", str(errors), "0", errors == 0))
    left = sum(after.open_files.values()) - sum(before.open_files.values())
    checks.append(Check("files left open", str(left), "0", left <= 0))
    most = max(max(sample.resident_mb.values()) for sample in (*samples, after))
    expected = f"at most {MEMORY_MB:.0f} MB"
    checks.append(Check("memory of a process", f"{most:.0f} MB", expected, most <= MEMORY_MB))
    replaced = set(before.resident_mb) - set(after.resident_mb)
    checks.append(Check("processes that died", str(len(replaced)), "0", not replaced))
    warm = [sample for sample in samples if sample.requests >= WARM_AFTER]
    if len(warm) >= _FEW:
        checks.append(_growth(warm))
    return checks


def _growth(warm: Sequence[Sample]) -> Check:
    # Not memory_mb: shared pages weigh more once an unrelated process that shares them exits.
    held = [sum(one.resident_mb.values()) for one in warm]
    grown = growth([one.requests for one in warm], held)
    over = warm[-1].requests - warm[0].requests
    found = f"{grown:+.1f} MB over {over:,} requests"
    return Check("growth when warm", found, f"at most {_GROWTH_MB:.0f} MB", grown <= _GROWTH_MB)


def soak_figure(samples: Sequence[Sample]) -> Figure:
    """Memory, open files and throughput against the number of requests."""
    figure = new_figure(9, 7.2)
    with matplotlib.rc_context(STYLE):
        memory, files, speed = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
        _memory(memory, samples)
        places = [sample.requests for sample in samples]
        files.step(places, [sum(one.open_files.values()) for one in samples], color=COLORS[0])
        files.set(title="Open files and connections, all processes")
        _throughput(speed, samples)
        speed.set_xlabel("requests answered")
        speed.xaxis.set_major_formatter("{x:,.0f}")
        for axes in (memory, files, speed):
            axes.set_ylim(bottom=0)
            if places[-1] > WARM_AFTER:
                axes.axvline(WARM_AFTER, color=MUTED, linewidth=0.8, linestyle=":")
    return figure


def _memory(axes: Axes, samples: Sequence[Sample]) -> None:
    places = [sample.requests for sample in samples]
    heavy = sorted(samples[-1].resident_mb, key=samples[-1].resident_mb.__getitem__, reverse=True)
    for place, pid in enumerate(heavy[: len(COLORS) - 1]):
        held = [sample.resident_mb.get(pid, float("nan")) for sample in samples]
        axes.plot(places, held, color=COLORS[place + 1], label=f"process {place + 1}")
    total = [sample.memory_mb for sample in samples]
    axes.plot(places, total, color=COLORS[0], label="all, shared memory counted once")
    axes.axhline(MEMORY_MB, color=MUTED, linewidth=0.8, linestyle="--", label="limit per process")
    axes.set(title="Resident memory, MB (checked from the dotted line on)")
    axes.legend(ncols=3, loc="center right", bbox_to_anchor=(1, 0.35))


def _throughput(axes: Axes, samples: Sequence[Sample]) -> None:
    pairs = [
        (later.requests, (later.requests - earlier.requests) / (later.seconds - earlier.seconds))
        for earlier, later in pairwise(samples)
        if later.seconds > earlier.seconds
    ]
    axes.plot([place for place, _ in pairs], [speed for _, speed in pairs], color=COLORS[0])
    axes.set(title="Requests answered per second")
