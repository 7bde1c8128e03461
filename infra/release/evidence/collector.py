"""Collects the evidence of one window for both versions: metrics in the log, Lambda's own lines and
counters, and secrets in the candidate's log.

A version that crashes or times out writes no line; AWS/Lambda `Errors` counts it. Those counters
come by the minute and late, so they are read as totals since the release began: what arrives late
counts in the window in which it arrives.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from msgspec.structs import replace

from common.aws import error_code
from infra.release.aws.clients import Aws, explained
from infra.release.aws.function import is_ours
from infra.release.errors import ReleaseError
from infra.release.verdict.evidence import Arm, Reports

CATALOGUE = Path(__file__).parents[2] / "observability" / "catalogue.toml"
DURATION, CONFIDENCE, PREDICTIONS = (
    "http.server.request.duration",
    "kiln.confidence",
    "kiln.predictions",
)
ROUTES = (  # what callers come for; probes would dilute the shares
    "/predict",
    "/predict/batch",
    "/v2/models/{name}/infer",
    "/v2/models/{name}/versions/{version}/infer",
)
_STREAM = re.compile(r"\[(\d+)\]")  # as in 2026/11/26/[12]8c1d…


@dataclass(frozen=True)
class Buckets:
    """Upper bounds of the catalogue's histograms."""

    latency_s: tuple[float, ...]
    confidence: tuple[float, ...]


def read_buckets(path: Path = CATALOGUE) -> Buckets:
    """The histogram buckets of the metric catalogue."""
    metrics = {m["name"]: m for m in tomllib.loads(path.read_text("utf-8"))["metric"]}
    try:
        return Buckets(tuple(metrics[DURATION]["buckets"]), tuple(metrics[CONFIDENCE]["buckets"]))
    except KeyError as exc:
        raise ReleaseError(f"{path} has no buckets for {exc}: the evidence needs them") from exc


@dataclass
class VersionCounts:
    """Counts of one version's requests."""

    buckets: Buckets
    requests: int = 0
    errors: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    latency: list[int] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    confidence: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.latency = [0] * (len(self.buckets.latency_s) + 1)
        self.confidence = [0] * (len(self.buckets.confidence) + 1)

    def take(self, line: dict[str, Any]) -> None:
        """Adds the metrics of one line."""
        if DURATION in line and line.get("http.route") in ROUTES:
            status = str(line.get("http.response.status_code", ""))
            self.answered(status, float(line[DURATION]))
        if PREDICTIONS in line and "class" in line:
            self.classes[str(line["class"])] += int(sum(_values(line[PREDICTIONS])))
        for value in _values(line.get(CONFIDENCE, [])):
            self.confidence[bisect_left(self.buckets.confidence, value)] += 1

    def answered(self, status: str, seconds: float | None) -> None:
        """Counts one request; None for a time that says nothing about the version."""
        failed = status.startswith("5")
        self.requests += 1
        self.errors += failed
        if status.startswith("4"):
            self.refusals[status] += 1
        if not failed and seconds is not None:
            self.latency[bisect_left(self.buckets.latency_s, seconds)] += 1

    def arm(self, lost: int, classes: Sequence[str]) -> Arm:
        """The counts as evidence, with `lost` further requests that failed without a log line."""
        return Arm(
            requests=self.requests + lost,
            errors=self.errors + lost,
            refusals=dict(self.refusals),
            latency=tuple(self.latency),
            classes=tuple(self.classes[name] for name in classes),
            confidence=tuple(self.confidence) if sum(self.confidence) else (),
        )


def counts_by_version(
    events: Iterable[tuple[str, str]], versions: Sequence[str], buckets: Buckets
) -> dict[str, VersionCounts]:
    """What the log's events, (stream, message), say about each of the versions."""
    found = {version: VersionCounts(buckets) for version in versions}
    for stream, message in events:
        line = embedded(message)
        if line is None or is_ours(str(line.get("trace_id", ""))):
            continue
        version = version_of(stream, line)
        if version in found:
            found[version].take(line)
    return found


def embedded(message: str) -> dict[str, Any] | None:
    """The parsed line if it holds embedded metrics, else None."""
    start = message.find('{"_aws"')
    if start < 0:
        return None
    try:
        line = json.loads(message[start:])
    except ValueError:  # cut off by a crash
        return None
    return line if isinstance(line, dict) else None


def version_of(stream: str, line: Mapping[str, Any] | None = None) -> str | None:
    """The version of the function that wrote a line."""
    if line and (named := line.get("faas.version")):
        return str(named)
    match = _STREAM.search(stream)
    return match[1] if match else None


def _values(found: Any) -> list[float]:
    return found if isinstance(found, list) else [found]


_MINUTE = 60
_DAY_S = 86_400  # stable's cold starts of so long before count
_SAMPLE = 5000  # lines of the candidate that are searched at a look
_METRICS = '"CloudWatchMetrics"'
_REPORTS = f'?{_METRICS} ?"REPORT RequestId"'
_STARTS = ('"Init Duration"', '"Restore Duration"')
# Cold starts are looked for in so much of the log at most, newest first: a busy day is gigabytes.
_SPANS_S, _MOST_PAGES = (600, 3600, _DAY_S), 20


@dataclass(frozen=True)
class Collected:
    """Evidence about both versions in one window.

    Attributes:
        lost: totals since the release began of calls that Lambda counts as failed, by version.
    """

    stable: Arm
    candidate: Arm
    lost: Mapping[str, int]


class Collector:
    """Reads the evidence about one function's versions."""

    def __init__(self, aws: Aws, function: str, alias: str) -> None:
        self._aws, self._function, self._alias = aws, function, alias
        self.buckets: Buckets = read_buckets()
        self._environments = Environments(self.buckets.latency_s)

    def collect(
        self,
        stable: str,
        candidate: str,
        window: tuple[float, float],
        began_s: float,
        lost_before: Mapping[str, int],
        classes: Sequence[str],
        *,
        is_first: bool = False,
    ) -> Collected:
        """Collects one window.

        Args:
            window: start and end in seconds since 1970; a line belongs to it by its time.
            began_s: when the release began.
            lost_before: the totals of the window before.
            classes: names of all classes, in an order that is the same for every window.
            is_first: whether cold starts of before the window belong to it, too.
        """
        versions = (stable, candidate)
        events = list(self.lines(window, _REPORTS))
        earlier = self._starts(began_s, window[0]) if is_first else []
        found = counts_by_version(events, versions, self.buckets)
        lost = self.lost(versions, began_s, window[1])
        arms = [
            replace(
                found[version].arm(max(0, lost[version] - lost_before.get(version, 0)), classes),
                reports=self._environments.reports(
                    *(
                        [e for e in some if version_of(e[0]) == version]
                        for some in (events, earlier)
                    )
                ),
            )
            for version in versions
        ]
        lines, secrets = secrets_in(self._sample(candidate, window, began_s))
        searched = replace(arms[1], lines=lines, secrets=dict(secrets))
        return Collected(arms[0], searched, lost)

    def _starts(self, began_s: float, until_s: float) -> list[tuple[str, str]]:
        """Cold starts of both versions before a window, of the day before the release at most."""
        found: list[tuple[str, str]] = []
        left = _MOST_PAGES
        for span_s in _SPANS_S:
            for pattern in _STARTS:
                for page in islice(self._pages((began_s - span_s, until_s), pattern), left):
                    left -= 1
                    found += page
            until_s = began_s - span_s
        return found

    def _sample(self, version: str, window: tuple[float, float], began_s: float) -> Iterator[str]:
        """Lines of any kind of a version that was published a day before the release at most."""
        days = (began_s - _DAY_S, window[1])
        day, last = (datetime.fromtimestamp(seconds, UTC).date() for seconds in days)
        found: list[Iterator[tuple[str, str]]] = []
        while day <= last:
            found.append(self.lines(window, prefix=f"{day:%Y/%m/%d}/[{version}]"))
            day += timedelta(days=1)
        lines = (event for some in found for event in some)
        return islice((m for stream, m in lines if version_of(stream) == version), _SAMPLE)

    def lost(self, versions: Sequence[str], began_s: float, until_s: float) -> dict[str, int]:
        """Calls by the alias that Lambda counts as failed, of each version, since the beginning."""
        start = math.floor(began_s / _MINUTE) * _MINUTE
        end = (math.floor(until_s / _MINUTE) + 1) * _MINUTE
        with explained("CloudWatch metrics"):
            answer = self._aws.cloudwatch.get_metric_data(
                MetricDataQueries=[
                    self._query(f"v{place}", version) for place, version in enumerate(versions)
                ],
                StartTime=datetime.fromtimestamp(start, UTC),
                EndTime=datetime.fromtimestamp(end, UTC),
            )
        sums = {result["Id"]: sum(result["Values"]) for result in answer["MetricDataResults"]}
        return {version: round(sums.get(f"v{n}", 0)) for n, version in enumerate(versions)}

    def lines(
        self, window: tuple[float, float], pattern: str = _METRICS, prefix: str = ""
    ) -> Iterator[tuple[str, str]]:
        """(stream, message) of every line from the window's start to before its end.

        Args:
            pattern: of CloudWatch Logs, that the lines match.
            prefix: of the names of streams, all of whose lines are taken instead.
        """
        for page in self._pages(window, pattern, prefix):
            yield from page

    def _pages(
        self, window: tuple[float, float], pattern: str, prefix: str = ""
    ) -> Iterator[list[tuple[str, str]]]:
        """The lines page by page: each page is a call, and may be empty."""
        start, end = (math.floor(when * 1000) for when in window)
        which = {"logStreamNamePrefix": prefix} if prefix else {"filterPattern": pattern}
        pages = self._aws.logs.get_paginator("filter_log_events").paginate(
            logGroupName=f"/aws/lambda/{self._function}",
            startTime=start,
            endTime=end - 1,
            **which,
        )
        with explained("CloudWatch Logs"):
            try:
                for page in pages:
                    events = page.get("events", ())
                    yield [(event["logStreamName"], event["message"]) for event in events]
            except ClientError as exc:
                if error_code(exc) != "ResourceNotFoundException":  # nobody was answered yet
                    raise

    def _query(self, name: str, version: str) -> dict[str, Any]:
        dimensions = {
            "FunctionName": self._function,
            "Resource": f"{self._function}:{self._alias}",
            "ExecutedVersion": version,
        }
        metric = {
            "Namespace": "AWS/Lambda",
            "MetricName": "Errors",
            "Dimensions": [{"Name": n, "Value": value} for n, value in dimensions.items()],
        }
        return {"Id": name, "MetricStat": {"Metric": metric, "Period": _MINUTE, "Stat": "Sum"}}


# After this many calls an environment has loaded what it needs: a growing peak is a leak, mostly.
_SETTLED_CALLS = 20
_REPORT = re.compile(
    r"^REPORT RequestId: .*?\bMemory Size: (?P<limit>\d+) MB\s+Max Memory Used: (?P<peak>\d+) MB"
    r"(?:.*?\b(?:Init|Restore) Duration: (?P<start>[\d.]+) ms)?"
)


@dataclass
class _Counts:
    calls: int = 0
    settled: int = 0
    grew: int = 0
    grown_mb: int = 0
    peak: float = 0.0
    starts: list[int] = field(default_factory=list)


@dataclass
class _Environment:
    calls: int = 0
    peak_mb: int = 0


class Environments:
    """Execution environments of all versions, each known by its stream of the log.

    They are remembered from window to window. A run that resumes another run's release sees each
    as new, which costs some evidence and invents none.
    """

    def __init__(self, edges_s: Sequence[float]) -> None:
        """Cold starts are counted in buckets with these edges."""
        self._edges_s = edges_s
        self._seen: dict[str, _Environment] = {}

    def reports(
        self, events: Iterable[tuple[str, str]], earlier: Iterable[tuple[str, str]] = ()
    ) -> Reports:
        """Counts the REPORT lines of a version's calls, (stream, message) in order of time.

        Args:
            earlier: lines from before the window, of which only cold starts count.
        """
        counts = _Counts(starts=[0] * (len(self._edges_s) + 1))
        for stream, message in events:
            if match := _REPORT.match(message):
                self._call(counts, stream, int(match["peak"]), int(match["limit"]))
                self._start(counts, match["start"])
        for _, message in earlier:
            if match := _REPORT.match(message):
                self._start(counts, match["start"])
        return Reports(
            counts.calls,
            counts.settled,
            counts.grew,
            counts.grown_mb,
            counts.peak,
            tuple(counts.starts) if any(counts.starts) else (),
        )

    def _call(self, counts: _Counts, stream: str, peak_mb: int, limit_mb: int) -> None:
        environment = self._seen.setdefault(stream, _Environment())
        counts.calls += 1
        counts.peak = max(counts.peak, peak_mb / max(limit_mb, 1))
        if environment.calls >= _SETTLED_CALLS:
            grown = max(0, peak_mb - environment.peak_mb)
            counts.settled += 1
            counts.grew += grown > 0
            counts.grown_mb += grown
        environment.calls += 1
        environment.peak_mb = max(environment.peak_mb, peak_mb)

    def _start(self, counts: _Counts, milliseconds: str | None) -> None:
        if milliseconds is not None:
            counts.starts[bisect_left(self._edges_s, float(milliseconds) / 1000)] += 1


# Kinds of what must be in no log. Forms, not entropy: a trace id is as random as a key.
_SECRETS = {
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|(?i:aws_?(?:secret_?access_?key|session_?token))\W{1,8}[A-Za-z0-9/+=]{40}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a token": r"(?i:\bbearer|\bauthorization\W{1,8}(?:basic|bearer))\s+[\w.~+/-]{12,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}|\bgh[pousr]_\w{36}|\bxox[abprs]-[\w-]{10,}",
    "an API key": r"\bkiln_[\w-]{40,}|(?i:\b(?:x-)?api[_-]?key)\W{1,8}[\w-]{16,}",
}
_IMAGES = {
    "image data": r"(?:/9j/|iVBORw0KGgo|UklGR)[A-Za-z0-9+/]{16,}"  # JPEG, PNG, WebP in base64
    r"|[A-Za-z0-9+/]{200,}|[\w-]{200,}"  # anything long in base64 or hexadecimal digits
    r"|(?:\\x89|\x89|\\u0089|\ufffd)PNG(?:\\r|\r)|\\xff\\xd8\\xff|\xff\xd8\xff"
    r"|RIFF.{4,16}WEBPVP8|JFIF(?:\\x00|\\u0000|\x00)"
    r"|(?:\b\d{1,3},\s*){150,}",  # pixels as a list
}
_FORMS = {kind: re.compile(form) for kind, form in (_SECRETS | _IMAGES).items()}


def secrets_in(messages: Iterable[str]) -> tuple[int, Counter[str]]:
    """Number of lines, and of lines with a secret or image data by kind; never their text."""
    lines, found = 0, Counter[str]()
    for message in messages:
        lines += 1
        found.update(kind for kind, form in _FORMS.items() if form.search(message))
    return lines, found
