"""PromQL for metrics that are pushed by processes which come and go.

`increase` and `rate` need two samples of a series within the window and guess beyond them. Here the
first 500 of a process is a new series with the value 1, and a function that answers once an hour
has one sample: both count nothing. A process's counters never go back and have its instance id, so
what was added is the value now less the value then, or all of it where there was none then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infra.observability.catalogue import Alert, Catalogue, Metric

# As long as a process may be silent and not be taken for a new one.
_MEMORY = "1h"


def added(series: str, window: str) -> str:
    """What each series grew by in the window, exactly."""
    return f"({series} - (last_over_time({series}[{_MEMORY}] offset {window}) or {series} * 0))"


def selector(name: str, matching: Mapping[str, str] | None = None) -> str:
    """A series by name, with labels that match regular expressions."""
    if not matching:
        return name
    inner = ",".join(f'{label(key)}=~"{value}"' for key, value in matching.items())
    return f"{name}{{{inner}}}"


def label(name: str) -> str:
    """An attribute's name as Prometheus has it."""
    return name.replace(".", "_")


def quantile(number: float, of: str) -> str:
    """Of a histogram's buckets that were summed by `le`."""
    return f"histogram_quantile({number:g}, {of})"


def alert_expression(catalogue: Catalogue, metric: Metric, alert: Alert) -> str:
    """True series: the statistic is beyond its limit."""
    if alert.above is not None:
        return f"{_statistic(catalogue, metric, alert)} > {alert.above:.12g}"
    return f"{_statistic(catalogue, metric, alert)} < {alert.below:.12g}"


def _statistic(catalogue: Catalogue, metric: Metric, alert: Alert) -> str:
    name, window = metric.prometheus, alert.window
    match alert.statistic:
        case "share":
            some, everything = (
                f"sum({_growth(metric, matching, window)})" for matching in (alert.matching, None)
            )
            return f"{some} / {everything}"
        case "p50" | "p95" | "p99":
            buckets = added(selector(f"{name}_bucket", alert.matching), window)
            return quantile(int(alert.statistic[1:]) / 100, f"sum by (le) {buckets}")
        case "increase":
            return f"sum({_growth(metric, alert.matching, window)})"
        case "rate":
            return f"sum({_growth(metric, alert.matching, window)}) / {alert.window_s}"
    extreme = f"{alert.statistic}_over_time({selector(name, alert.matching)}[{window}])"
    if alert.of:
        extreme = f"({extreme} / {catalogue[alert.of].prometheus})"
    return f"{alert.statistic}{_by(metric.labels)}({extreme})"


def _growth(metric: Metric, matching: Mapping[str, str] | None, window: str) -> str:
    name = metric.prometheus + ("_count" if metric.kind == "histogram" else "")
    if metric.owner == "machine":  # scraped, and there for as long as the machine
        return f"rate({selector(name, matching)}[{window}])"
    return added(selector(name, matching), window)


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(map(label, labels))}) " if labels else ""
