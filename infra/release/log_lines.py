"""What the service's metrics in the log say about each version.

Lines are CloudWatch's embedded metric format (serve/aws_lambda/embedded_metrics.py). A request may
need several; each names its version (`faas.version`), or its stream does.
"""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.release.errors import ReleaseError
from infra.release.events import is_ours
from infra.release.verdict.evidence import Arm

CATALOGUE = Path(__file__).parents[1] / "observability" / "catalogue.toml"

DURATION, CONFIDENCE, PREDICTIONS = (
    "http.server.request.duration",
    "kiln.confidence",
    "kiln.predictions",
)
ROUTES = ("/predict", "/predict/batch")  # what callers come for; probes would dilute the shares

_STREAM = re.compile(r"\[(\d+)\]")  # as in 2026/11/26/[12]8c1d…


@dataclass(frozen=True)
class Buckets:
    """Upper bounds of the catalogue's histograms."""

    latency_s: tuple[float, ...]
    confidence: tuple[float, ...]


def read_buckets(path: Path = CATALOGUE) -> Buckets:
    """Of the metric catalogue."""
    metrics = {m["name"]: m for m in tomllib.loads(path.read_text("utf-8"))["metric"]}
    try:
        return Buckets(tuple(metrics[DURATION]["buckets"]), tuple(metrics[CONFIDENCE]["buckets"]))
    except KeyError as exc:
        raise ReleaseError(f"{path} has no buckets for {exc}: the evidence needs them") from exc


@dataclass
class Tally:
    """Counts of one version's requests."""

    buckets: Buckets
    requests: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    confidence: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.latency = [0] * (len(self.buckets.latency_s) + 1)
        self.confidence = [0] * (len(self.buckets.confidence) + 1)

    def take(self, line: dict[str, Any]) -> None:
        """Counts what a line says."""
        if DURATION in line and line.get("http.route") in ROUTES:
            failed = str(line.get("http.response.status_code", "")).startswith("5")
            self.requests += 1
            self.errors += failed
            if not failed:
                self.latency[bisect_left(self.buckets.latency_s, line[DURATION])] += 1
        if PREDICTIONS in line and "class" in line:
            self.classes[str(line["class"])] += int(sum(_values(line[PREDICTIONS])))
        for value in _values(line.get(CONFIDENCE, [])):
            self.confidence[bisect_left(self.buckets.confidence, value)] += 1

    def arm(self, lost: int, classes: Sequence[str]) -> Arm:
        """As evidence, with `lost` requests more that failed without a line."""
        return Arm(
            requests=self.requests + lost,
            errors=self.errors + lost,
            latency=tuple(self.latency),
            classes=tuple(self.classes[name] for name in classes),
            confidence=tuple(self.confidence) if sum(self.confidence) else (),
        )


def tallies(
    events: Iterable[tuple[str, str]], versions: Sequence[str], buckets: Buckets
) -> dict[str, Tally]:
    """What the log's events, (stream, message), say about each of the versions."""
    found = {version: Tally(buckets) for version in versions}
    for stream, message in events:
        line = embedded(message)
        if line is None or is_ours(str(line.get("trace_id", ""))):
            continue
        version = version_of(stream, line)
        if version in found:
            found[version].take(line)
    return found


def embedded(message: str) -> dict[str, Any] | None:
    """The line, if it is one of metrics."""
    start = message.find('{"_aws"')
    if start < 0:
        return None
    try:
        line = json.loads(message[start:])
    except ValueError:  # cut off by a crash
        return None
    return line if isinstance(line, dict) else None


def version_of(stream: str, line: dict[str, Any]) -> str | None:
    """Which version of the function wrote it."""
    if named := line.get("faas.version"):
        return str(named)
    match = _STREAM.search(stream)
    return match[1] if match else None


def _values(found: Any) -> list[float]:
    return found if isinstance(found, list) else [found]
