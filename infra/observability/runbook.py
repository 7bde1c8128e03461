"""Generates docs/runbook.md: what each alert means, what to look at, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from infra.observability.catalogue import Alert, Catalogue, Metric, Objective, kebab
from infra.observability.cloudwatch import WITHOUT_ALARM
from infra.observability.rules import burn_alerts

_HEAD = """\
# Runbook

What to do when an alert comes. From `infra/observability/catalogue.toml` by
`bazel run //infra/observability:generate`: edit the catalogue, not this file.

**First, whatever it is:** open the dashboard *Kiln: service* and see whether callers are harmed
(failed share, p99, error budget). If they are and a release went out within the last hour, take it
back first and look for the reason afterwards:

```sh
./tools/bazel run //infra:status -- --env prod     # versions, weights, the last decisions
./tools/bazel run //infra:rollback -- --env prod   # to the version before; ends once verified
```

Severity *page*: somebody gets up. *warning*: in working hours. In CloudWatch an alarm is called
`kiln-<environment>-` and the name in the table.

"""
_BURN = {
    "FastBurn": "At this pace 2 % of the month's error budget is gone within an hour, "
    "or 5 % within six.",
    "SlowBurn": "At this pace 10 % of the month's error budget is gone within one day, "
    "or within three.",
}


def runbook(catalogue: Catalogue) -> str:
    """The page in Markdown."""
    rows = ["| alert | severity | CloudWatch |", "|---|---|---|"]
    sections: list[str] = []
    for name, severity, body in _entries(catalogue):
        alarm = "–" if name in WITHOUT_ALARM else f"`{kebab(name)}`"
        rows.append(f"| [{name}](#{name.lower()}) | {severity} | {alarm} |")
        sections.append(f"## {name}\n\n{body}")
    return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections)


def _entries(catalogue: Catalogue) -> Iterator[tuple[str, str, str]]:
    """(name, severity, text) of each alert, those about promises first."""
    recovery = catalogue.recovery
    promise = f"*{recovery.promise}.* {recovery.means}"
    yield recovery.name, recovery.severity, _body(promise, recovery.look, recovery.act)
    for objective in catalogue.objectives:
        for name, severity, _ in burn_alerts(objective):
            yield name, severity, _body(_promise(objective, name), objective.look, objective.act)
    for metric, alert in catalogue.alerts:
        what = f"{alert.means} ({_measured(metric, alert)})"
        if reason := WITHOUT_ALARM.get(alert.name):
            what += f" No alarm in CloudWatch: {reason}."
        yield alert.name, alert.severity, _body(what, alert.look, alert.act)


def _promise(objective: Objective, name: str) -> str:
    burn = _BURN[name.removeprefix(objective.alert)]
    return f"*{objective.promise}*, where {objective.good}. {burn}"


def _measured(metric: Metric, alert: Alert) -> str:
    where = ", ".join(f"{key} = {value}" for key, value in (alert.matching or {}).items())
    of = f" of `{alert.of}`" if alert.of else ""
    limit = f"above {alert.above:g}" if alert.above is not None else f"below {alert.below:g}"
    matching = f" where {where}" if where else ""
    return f"`{metric.name}`{of}: {alert.statistic}{matching} over {alert.window} {limit}"


def _body(what: str, look: Sequence[str], act: Sequence[str]) -> str:
    parts = [what, "", "Look at:", ""]
    parts += [f"- {item}" for item in look]
    parts += ["", "Then:", ""]
    parts += [f"- {item}" for item in act]
    return "\n".join(parts) + "\n"
