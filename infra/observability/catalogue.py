"""The catalogue of metrics, alerts and objectives, read from catalogue.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

Kind = Literal["counter", "gauge", "histogram"]
Severity = Literal["page", "warning"]

# <workspace or runfiles>/infra/observability/catalogue.toml
PATH = Path(__file__).with_name("catalogue.toml")

_UNITS = {"s": "seconds", "By": "bytes"}
_SECONDS = {"m": 60, "h": 3600, "d": 86400}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Alert:
    """An alert: a statistic of a metric over a window beyond a limit, with the catalogue's
    explanation.
    """

    name: str
    statistic: str
    window: str
    severity: Severity
    means: str
    look: tuple[str, ...]
    act: tuple[str, ...]
    above: float | None = None
    below: float | None = None
    matching: Mapping[str, str] | None = None
    of: str | None = None

    @property
    def window_s(self) -> int:
        """The window in seconds."""
        return seconds(self.window)


@dataclass(frozen=True)
class Metric:
    """A metric as OpenTelemetry names it."""

    name: str
    owner: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    description: str
    buckets: tuple[float, ...] = ()
    alerts: tuple[Alert, ...] = ()

    @property
    def prometheus(self) -> str:
        """The series' name in Prometheus, for a histogram without suffixes such as `_bucket`."""
        parts = [name.replace(".", "_") for name in (self.name, _UNITS.get(self.unit, "")) if name]
        if self.owner == "prometheus":
            return self.name
        if self.unit == "1" and self.kind == "gauge":
            parts.append("ratio")
        return "_".join([*parts, *(["total"] if self.kind == "counter" else [])])


@dataclass(frozen=True)
class Objective:
    """An objective: the share of events that must be good, over 30 days."""

    name: str
    objective: float
    promise: str
    good: str
    look: tuple[str, ...]
    act: tuple[str, ...]
    threshold_s: float | None = None
    routes: str = ".*"  # whose answers are timed: a regular expression

    @property
    def budget(self) -> float:
        """The error budget: the share that may be bad."""
        return round(1 - self.objective, 9)

    @property
    def alert(self) -> str:
        """Stem of its alerts' names."""
        return self.name.capitalize()


@dataclass(frozen=True)
class Recovery:
    """How long an outage may last."""

    name: str
    promise: str
    limit_s: int
    severity: Severity
    means: str
    look: tuple[str, ...]
    act: tuple[str, ...]


@dataclass(frozen=True)
class Catalogue:
    """The parsed catalogue."""

    metrics: tuple[Metric, ...]
    objectives: tuple[Objective, ...]
    recovery: Recovery
    runbook: str  # URL of the runbook

    def runbook_of(self, name: str) -> str:
        """URL of an alert's section, by its name in Prometheus or in CloudWatch."""
        return f"{self.runbook}#{name.replace('-', '').lower()}"

    def __getitem__(self, name: str) -> Metric:
        return next(metric for metric in self.metrics if metric.name == name)

    @property
    def alerts(self) -> list[tuple[Metric, Alert]]:
        """Alerts of metrics, in the file's order."""
        return [(metric, alert) for metric in self.metrics for alert in metric.alerts]


class CatalogueError(ValueError):
    """The file has an invalid entry; the message names it."""


def load(path: Path = PATH) -> Catalogue:
    """Reads the catalogue.

    Raises:
        CatalogueError: an entry has a missing or unknown field, or the runbook's URL is invalid.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    url = str(content.get("runbook", ""))
    if not re.fullmatch(r"https?://[^\s#]+", url):
        raise CatalogueError(
            f"runbook in the catalogue: expected a URL, as https://…/docs/runbook.md, got {url!r}"
        )
    return Catalogue(
        tuple(_metric(entry) for entry in content["metric"]),
        tuple(_build(Objective, entry) for entry in content["slo"]),
        _build(Recovery, content["recovery"]),
        url,
    )


def kebab(name: str) -> str:
    """Converts `ErrorShare` to `error-share`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def seconds(window: str) -> int:
    """Seconds of a duration such as `5m`, `1h` or `3d`."""
    return int(window[:-1]) * _SECONDS[window[-1]]


def _metric(entry: dict[str, Any]) -> Metric:
    alerts = tuple(_build(Alert, alert) for alert in entry.get("alerts", ()))
    return _build(Metric, entry | {"alerts": alerts})


def _build(kind: type[_T], entry: Mapping[str, Any]) -> _T:
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()}
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    try:
        if unknown := set(values) - known:
            raise TypeError(f"unknown fields {', '.join(sorted(unknown))}")
        return kind(**values)
    except TypeError as exc:
        raise CatalogueError(f"{entry.get('name', entry)} in the catalogue: {exc}") from exc
