"""The picture of a soak: what the server held, and how fast it answered, request by request."""

from collections.abc import Sequence
from itertools import pairwise

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from serve.soak.resources import Sample
from serve.soak.verdict import MEMORY_MB, WARM_AFTER
from tools.figures import COLORS, MUTED, STYLE, new_figure


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
    axes.plot(places, total, color=COLORS[0], label="all, shared memory once")
    axes.axhline(MEMORY_MB, color=MUTED, linewidth=0.8, linestyle="--", label="limit of a process")
    axes.set(title="Resident memory, MB (dotted: judged from here)")
    axes.legend(ncols=3, loc="lower right")


def _throughput(axes: Axes, samples: Sequence[Sample]) -> None:
    pairs = [
        (later.requests, (later.requests - earlier.requests) / (later.seconds - earlier.seconds))
        for earlier, later in pairwise(samples)
        if later.seconds > earlier.seconds
    ]
    axes.plot([place for place, _ in pairs], [speed for _, speed in pairs], color=COLORS[0])
    axes.set(title="Requests answered per second")
