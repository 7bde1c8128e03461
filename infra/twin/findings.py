"""What the twin observes of its traffic, what is expected of it, and the plot of its run.

Observed are responses, invocations, messages, and the alias over time.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.figures import COLORS, GREEN, RED, STYLE, new_figure, to_png
from common.programs import serving
from infra.twin.cloud.cloud import regularly
from infra.twin.cloud.data_plane import Seen
from infra.twin.cloud.runtime_api import QuietHandler
from infra.twin.deployment import PROMOTED, ROLLED_BACK, Deployment
from infra.twin.load import TimedResponse

_POLL_S = 0.25


@dataclass(frozen=True)
class Routing:
    """An alias's routing from a time on."""

    time_s: float
    weights: Mapping[str, float]  # by version, sum 1


@dataclass(frozen=True)
class Alert:
    """A message of the topic as its subscriber received it."""

    time_s: float
    subject: str
    message: str


@dataclass
class Traffic:
    """Everything observed so far. Lists only grow, and each has one writer."""

    responses: list[TimedResponse] = field(default_factory=list)
    calls: list[Seen] = field(default_factory=list)
    routings: list[Routing] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def saw(self, seen: Seen) -> None:
        """Records a call through the alias."""
        if seen.target.qualifier != seen.target.version:
            self.calls.append(seen)

    def first_call(self, version: str, since_s: float = 0.0) -> float | None:
        """When the version first responded to a caller."""
        times = (
            call.time_s - call.duration_ms / 1e3
            for call in list(self.calls)
            if call.target.version == version and call.time_s >= since_s
        )
        return min(times, default=None)

    def so_far(self) -> Traffic:
        """A snapshot of the traffic so far."""
        return Traffic(
            list(self.responses), list(self.calls), list(self.routings), list(self.alerts)
        )

    def left(self, version: str, since_s: float) -> float | None:
        """When the alias stopped routing to the version."""
        there = False
        for routing in list(self.routings):
            if routing.time_s < since_s:
                continue
            if routing.weights.get(version):
                there = True
            elif there:
                return routing.time_s
        return None


@contextmanager
def callers(
    command: Sequence[str], environment: Mapping[str, str], traffic: Traffic
) -> Iterator[subprocess.Popen[str]]:
    """The program load.py, for the duration of the block."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environment), text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        lines = process.stdout

        def read() -> None:
            for line in lines:
                traffic.responses.append(TimedResponse(**json.loads(line)))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield process
        finally:
            process.stdin.close()
            reader.join()


@contextmanager
def watched_alias(client: Any, function: str, alias: str, traffic: Traffic) -> Iterator[None]:
    """Records each change of the alias, at most a quarter of a second late."""

    def look() -> None:
        try:
            found = client.get_alias(FunctionName=function, Name=alias)
        except client.exceptions.ResourceNotFoundException:
            return  # destroyed manually with --keep
        weights = dict((found.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {})
        weights[found["FunctionVersion"]] = 1 - sum(weights.values())
        if not traffic.routings or traffic.routings[-1].weights != weights:
            traffic.routings.append(Routing(time.time(), weights))

    with regularly(look, _POLL_S):
        yield


@contextmanager
def subscriber(traffic: Traffic) -> Iterator[str]:
    """The URL of a topic subscriber that records messages."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            subject, message = str(document.get("Subject")), str(document.get("Message"))
            traffic.alerts.append(Alert(time.time(), subject, message))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


MOST_ROLLBACK_S = 60.0
# Calls in progress when a release ends, and late notifications.
_SETTLE_S = 3.0


@dataclass(frozen=True)
class Release:
    """One release of the scenario.

    Attributes:
        fails: share of the candidate's calls that fail.
        version: the candidate's, if one was published.
        stable: the previous version.
    """

    name: str
    good: bool
    fails: float
    deployment: Deployment
    version: str | None
    stable: str


@dataclass(frozen=True)
class Finding:
    """An expectation, and what was observed."""

    promise: str
    kept: bool
    seen: str


def show(findings: Sequence[Finding], took_s: float, console: Console) -> None:
    """Prints the findings as a table, and how many expectations failed."""
    table = Table(title=f"After {took_s:.0f} s", title_justify="left")
    for name in ("", "promise", "seen"):
        table.add_column(name)
    for finding in findings:
        mark = "[green]✓[/]" if finding.kept else "[red]✗[/]"
        table.add_row(mark, escape(finding.promise), escape(finding.seen))
    console.print(table)
    if broken := sum(not finding.kept for finding in findings):
        console.print(f"[bold red]{broken} of {len(findings)} expectations failed[/]")
    else:
        console.print(f"[bold green]all {len(findings)} expectations met[/]")


@dataclass(frozen=True)
class Measured:
    """Measurements of one release."""

    requests: int
    failed: int
    statuses: Mapping[int, int]  # status codes of failed requests; 0 if the connection broke
    candidate_calls: int
    candidate_failed: int
    candidate_errors: Mapping[str, int]  # error types, as Lambda names them
    first_candidate_s: float | None
    rollback_s: float | None  # from the first candidate request until the alias was back
    alert_s: float | None  # likewise, until a subscriber was notified


def measure(release: Release, traffic: Traffic) -> Measured:
    """What callers and functions observed during a release."""
    began, ended = release.deployment.began_s, release.deployment.ended_s + _SETTLE_S
    responses = [one for one in list(traffic.responses) if began <= one.time_s <= ended]
    calls = [
        call
        for call in list(traffic.calls)
        if call.target.version == release.version and began <= call.time_s <= ended
    ]
    first = traffic.first_call(release.version, began) if release.version else None
    left = traffic.left(release.version, began) if release.version else None
    alerts = [alert.time_s for alert in list(traffic.alerts) if began <= alert.time_s <= ended]
    return Measured(
        len(responses),
        sum(map(failed, responses)),
        dict(Counter(one.status for one in responses if failed(one))),
        len(calls),
        sum(call.error is not None for call in calls),
        dict(Counter(call.error for call in calls if call.error)),
        first,
        None if release.good or first is None or left is None else left - first,
        None if first is None or not alerts else max(alerts) - first,
    )


def failed(response: TimedResponse) -> bool:
    """Whether a caller did not receive a correct response."""
    return response.status != 200


def find(
    releases: Sequence[Release], traffic: Traffic, alias: Mapping[str, float]
) -> list[Finding]:
    """Checks all expectations; `alias` is where it points at the end."""
    return [
        finding for release in releases for finding in _of(release, measure(release, traffic))
    ] + [_at_the_end(releases, alias)]


def _of(release: Release, seen: Measured) -> Iterator[Finding]:
    code = release.deployment.exit_code
    wanted, word = (PROMOTED, "promoted") if release.good else (ROLLED_BACK, "rolled back")
    told = str(release.deployment.result.get("text") or release.deployment.result.get("error"))
    yield Finding(f"{release.name}: is {word}", code == wanted, f"exit code {code}: {told}")
    if not release.good:
        took = "never" if seen.rollback_s is None else f"after {seen.rollback_s:.1f} s"
        yield Finding(
            f"{release.name}: rolled back within {MOST_ROLLBACK_S:g} s of its first request",
            seen.rollback_s is not None and seen.rollback_s <= MOST_ROLLBACK_S,
            f"{took}, {seen.candidate_calls:,} requests",
        )
        told_after = "nobody" if seen.alert_s is None else f"after {seen.alert_s:.1f} s"
        yield Finding(f"{release.name}: an alert is sent", seen.alert_s is not None, told_after)
    yield _failures(release, seen)


def _failures(release: Release, seen: Measured) -> Finding:
    counted = f"{seen.failed:,} of {seen.requests:,} requests"
    if seen.failed:
        listed = [f"{count} × {status or 'broken'}" for status, count in seen.statuses.items()]
        listed += [f"{count} × {kind}" for kind, count in seen.candidate_errors.items()]
        counted += f" ({', '.join(listed)})"
    if not release.fails:
        return Finding(f"{release.name}: no request fails", seen.failed == 0, counted)
    # Each failure is a crash of the candidate; no other version failed.
    share = seen.failed / seen.requests if seen.requests else 0.0
    return Finding(
        f"{release.name}: only its own requests fail",
        seen.failed <= seen.candidate_failed,
        f"{counted} ({share:.2%}); the candidate crashed at {seen.candidate_failed:,} of its"
        f" {seen.candidate_calls:,}, its own share of images is {release.fails:.1%}",
    )


def _at_the_end(releases: Sequence[Release], alias: Mapping[str, float]) -> Finding:
    promoted = [release.version for release in releases if release.good and release.version]
    expected = promoted[-1] if promoted else releases[0].stable
    seen = ", ".join(f"version {version}: {weight:.0%}" for version, weight in alias.items())
    return Finding(
        "at the end all traffic goes to the last good version", alias == {expected: 1}, seen
    )


_BIN_S = 2.0


def draw(traffic: Traffic, releases: Sequence[Release]) -> bytes:
    """PNG over the seconds since the first request: traffic by version, failures, latency."""
    start = traffic.responses[0].time_s
    by_version: defaultdict[str, list[Seen]] = defaultdict(list)
    for call in traffic.calls:
        if call.time_s >= start:
            by_version[call.target.version].append(call)
    versions = sorted(by_version, key=int)
    end = max(response.time_s for response in traffic.responses)
    edges = np.arange(0.0, end - start + 2 * _BIN_S, _BIN_S)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(13, 8.5)
        split, failures, latency = figure.subplots(3, 1, sharex=True, height_ratios=[1.5, 0.8, 1.2])
        rates = []
        for number, version in enumerate(versions):
            times = np.array([call.time_s - start for call in by_version[version]])
            took_ms = np.array([call.duration_ms for call in by_version[version]])
            rates.append(np.histogram(times, edges)[0] / _BIN_S)
            latency.plot(times, took_ms, ".", color=COLORS[number % len(COLORS)], markersize=2)
        split.stackplot(edges[:-1], *rates, labels=versions, colors=COLORS, step="post")
        split.legend(title="version", loc="center left", bbox_to_anchor=(1.0, 0.5))
        split.set_title("Requests per second by version", pad=22)
        failed_s = [one.time_s - start for one in traffic.responses if failed(one)]
        failures.hist(failed_s, edges, color=RED)
        failures.set_title(f"Failed requests: {len(failed_s):,} of {len(traffic.responses):,}")
        latency.set(yscale="log", xlabel="seconds since the first request", xlim=(0, edges[-1]))
        latency.yaxis.set_major_formatter(lambda ms, _: f"{ms:g}")  # its own would need math mode
        latency.set_title("Time in the function, ms")
        for release in releases:
            _mark(split, release, traffic, start)
    return to_png(figure)


def _mark(axes: Axes, release: Release, traffic: Traffic, start: float) -> None:
    """Shades the time from the candidate's first request until the alias was back."""
    seen = measure(release, traffic)
    if seen.first_candidate_s is None:
        return
    colour, text = GREEN if release.good else RED, release.name
    first = seen.first_candidate_s - start
    if seen.rollback_s is not None:
        text += f"\nback after {seen.rollback_s:.0f} s"
        axes.axvspan(first, first + seen.rollback_s, color=colour, alpha=0.2)
    axes.axvline(first, color=colour, linestyle="--", linewidth=0.9)
    place = axes.get_xaxis_transform()
    axes.text(first, 1.01, text, transform=place, color=colour, va="bottom")
