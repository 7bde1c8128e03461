"""The figure of a twin run: traffic split, failures, latency."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from common.figures import GREEN, MUTED, RED, STYLE, new_figure, to_png
from infra.twin.cloud.data_plane import Seen
from infra.twin.findings import Release, failed, measure
from infra.twin.traffic import Traffic

_BIN_S = 2.0


def draw(traffic: Traffic, releases: Sequence[Release]) -> bytes:
    """PNG, over the seconds since the first request."""
    start = traffic.answers[0].time_s
    end = max(answer.time_s for answer in traffic.answers)
    edges = np.arange(0.0, end - start + 2 * _BIN_S, _BIN_S)
    by_version: defaultdict[str, list[Seen]] = defaultdict(list)
    for call in traffic.calls:
        if call.time_s >= start:
            by_version[call.target.version].append(call)
    versions = sorted(by_version, key=int)
    palette = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    colours = dict(zip(versions, palette, strict=False))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(13, 8.5)
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[1.5, 0.8, 1.2])
        _draw_split(top, by_version, versions, colours, start, edges)
        _draw_failures(middle, traffic, start, edges)
        _draw_latency(bottom, by_version, versions, colours, start, edges)
        for axes in (top, middle, bottom):
            for release in releases:
                _mark(axes, release, traffic, start, named=axes is top)
        bottom.set_xlabel("seconds since the first request")
        bottom.set_xlim(0, edges[-1])
    return to_png(figure)


def _draw_split(
    axes: Axes,
    calls: dict[str, list[Seen]],
    versions: Sequence[str],
    colours: dict[str, Any],
    start: float,
    edges: NDArray[np.float64],
) -> None:
    rates = [
        np.histogram([call.time_s - start for call in calls[version]], edges)[0] / _BIN_S
        for version in versions
    ]
    axes.stackplot(
        edges[:-1],
        *rates,
        labels=[f"version {version}" for version in versions],
        colors=[colours[version] for version in versions],
        step="post",
    )
    axes.set_title("Requests by the version that answered", pad=22)
    axes.set_ylabel("a second")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_failures(axes: Axes, traffic: Traffic, start: float, edges: NDArray[np.float64]) -> None:
    times = [answer.time_s - start for answer in traffic.answers if failed(answer)]
    counts = np.histogram(times, edges)[0] / _BIN_S
    axes.fill_between(edges[:-1], counts, step="post", color=RED)
    axes.set_ylim(0, max(1.0, 1.15 * counts.max()))
    axes.set_title(f"Requests that failed: {len(times):,} of {len(traffic.answers):,}")
    axes.set_ylabel("a second")


def _draw_latency(
    axes: Axes,
    calls: dict[str, list[Seen]],
    versions: Sequence[str],
    colours: dict[str, Any],
    start: float,
    edges: NDArray[np.float64],
) -> None:
    for version in versions:
        times = np.array([call.time_s - start for call in calls[version]])
        took = np.array([call.duration_ms for call in calls[version]])
        places = np.digitize(times, edges) - 1
        for percent, style, width in ((99, "-", 1.4), (50, ":", 1.2)):
            line = np.full(len(edges), np.nan)
            for place in np.unique(places):
                some = took[places == place]
                if len(some) >= 3:
                    line[place] = np.percentile(some, percent)
            axes.plot(edges, line, style, color=colours[version], linewidth=width)
    axes.set_yscale("log")
    axes.set_title("Time in the function, p99 (dotted: p50)")
    axes.set_ylabel("milliseconds")


def _mark(axes: Axes, release: Release, traffic: Traffic, start: float, named: bool) -> None:
    seen = measure(release, traffic)
    if seen.first_canary_s is None:
        return
    first = seen.first_canary_s - start
    axes.axvline(first, color=MUTED, linestyle="--", linewidth=0.9)
    last = release.deployment.ended_s - start
    if seen.rollback_s is not None:
        last = first + seen.rollback_s
        axes.axvline(last, color=RED, linestyle="--", linewidth=0.9)
    if named:
        text = release.name
        if seen.rollback_s is not None:
            text += f"\nback after {seen.rollback_s:.0f} s"
        colour = GREEN if release.good else RED
        place = (first, 1.01)
        axes.text(*place, text, transform=axes.get_xaxis_transform(), color=colour, va="bottom")
