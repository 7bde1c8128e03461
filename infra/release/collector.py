"""Evidence of both versions for one window: their lines in the log, and Lambda's own counters.

A version that crashes or times out writes no line; AWS/Lambda `Errors` counts it. Those counters
come by the minute and late, so they are read as totals since the release began: what arrives late
counts in the window in which it arrives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from infra.release.aws import Aws, error_code, explained
from infra.release.log_lines import Buckets, read_buckets, tallies
from infra.release.verdict.evidence import Arm

_MINUTE = 60


@dataclass(frozen=True)
class Collected:
    """What was seen of both versions in one window.

    Attributes:
        lost: totals since the release began of calls that Lambda counts as failed, by version.
    """

    stable: Arm
    candidate: Arm
    lost: Mapping[str, int]


class Collector:
    """Reads what one function's versions did."""

    def __init__(self, aws: Aws, function: str, alias: str) -> None:
        self._aws, self._function, self._alias = aws, function, alias
        self.buckets: Buckets = read_buckets()

    def collect(
        self,
        stable: str,
        candidate: str,
        window: tuple[float, float],
        began_s: float,
        lost_before: Mapping[str, int],
        classes: Sequence[str],
    ) -> Collected:
        """One window.

        Args:
            window: start and end in seconds since 1970; a line belongs to it by its time.
            began_s: when the release began.
            lost_before: the totals of the window before.
            classes: names of all classes, in an order that is the same for every window.
        """
        found = tallies(self.lines(window), (stable, candidate), self.buckets)
        lost = self.lost((stable, candidate), began_s, window[1])
        arms = [
            found[version].arm(max(0, lost[version] - lost_before.get(version, 0)), classes)
            for version in (stable, candidate)
        ]
        return Collected(arms[0], arms[1], lost)

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

    def lines(self, window: tuple[float, float]) -> Iterator[tuple[str, str]]:
        """(stream, message) of every line of metrics from the window's start to before its end."""
        start, end = (math.floor(when * 1000) for when in window)
        pages = self._aws.logs.get_paginator("filter_log_events").paginate(
            logGroupName=f"/aws/lambda/{self._function}",
            startTime=start,
            endTime=end - 1,
            filterPattern='"CloudWatchMetrics"',
        )
        with explained("CloudWatch Logs"):
            try:
                for page in pages:
                    for event in page.get("events", ()):
                        yield event["logStreamName"], event["message"]
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
