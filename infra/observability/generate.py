"""Generates all files that derive from the catalogue; a test fails if one is out of date.

bazel run //infra/observability:generate
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import indent

import yaml

from common.command_line import command_parser
from common.files import workspace_folder
from infra.observability import cloudwatch
from infra.observability.catalogue import Alert, Catalogue, Metric, Objective, kebab, load
from infra.observability.dashboards import cloudwatch_template, dashboards, grafana
from infra.observability.rules import burn_alerts, managed_rule_file, rule_file
from infra.observability.stack.alertmanager import managed_config
from infra.observability.stack.local import prometheus_config

_NOTE = "# From catalogue.toml: bazel run //infra/observability:generate\n"
_OURS = "infra/observability"
_ALARMS = "infra/terraform/modules/alarms"
_MANAGED = "infra/terraform/roots/observability"

_HEAD = """\
# Runbook

How to respond to alerts. Generated from `infra/observability/catalogue.toml` by
`bazel run //infra/observability:generate`: edit the catalogue, not this file.

**First:** open the dashboard *Kiln: service* and check whether callers are affected (error rate,
p99, error budget). If they are, and there was a release within the last hour, roll it back before
looking for the cause:

```sh
./tools/bazel run //infra:status -- --env prod     # versions, weights, the last decisions
./tools/bazel run //infra:rollback -- --env prod   # to the previous version; returns once verified
```

Severity *page*: respond at any hour. *warning*: in working hours. CloudWatch alarms are named
`kiln-<environment>-` followed by the name in the table.

"""
_BURN = {
    "FastBurn": "At this rate 2 % of the month's error budget is gone within an hour, "
    "or 5 % within six.",
    "SlowBurn": "At this rate 10 % of the month's error budget is gone within one day, "
    "or within three.",
}


def runbook(catalogue: Catalogue) -> str:
    """The page in Markdown."""
    rows = ["| alert | severity | CloudWatch |", "|---|---|---|"]
    sections: list[str] = []
    for name, severity, body in _entries(catalogue):
        alarm = "–" if name in cloudwatch.WITHOUT_ALARM else f"`{kebab(name)}`"
        rows.append(f"| [{name}](#{name.lower()}) | {severity} | {alarm} |")
        sections.append(f"## {name}\n\n{body}")
    return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections)


def _entries(catalogue: Catalogue) -> Iterator[tuple[str, str, str]]:
    """(name, severity, text) of each alert, objectives first."""
    recovery = catalogue.recovery
    promise = f"*{recovery.promise}.* {recovery.means}"
    yield recovery.name, recovery.severity, _body(promise, recovery.look, recovery.act)
    for objective in catalogue.objectives:
        for name, severity, _ in burn_alerts(objective):
            yield name, severity, _body(_promise(objective, name), objective.look, objective.act)
    for metric, alert in catalogue.alerts:
        what = f"{alert.means} ({_measured(metric, alert)})"
        if reason := cloudwatch.WITHOUT_ALARM.get(alert.name):
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


# Generated files by path below the workspace.
_FILES: Mapping[str, Callable[[Catalogue], str]] = {
    "docs/runbook.md": runbook,
    f"{_OURS}/prometheus/kiln.rules.yml": lambda found: _yaml(rule_file(found)),
    f"{_OURS}/compose/prometheus.yml": lambda _: _yaml(_in_containers()),
    f"{_MANAGED}/rules.yml.tftpl": lambda found: _yaml(managed_rule_file(found)),
    f"{_MANAGED}/alertmanager.yml.tftpl": lambda _: _managed_alertmanager(),
    f"{_ALARMS}/alarms.tf.json": lambda found: _json(cloudwatch.alarms_file(found)),
    f"{_ALARMS}/burn.tf.json": lambda found: _json(cloudwatch.burn_file(found)),
    f"{_ALARMS}/dashboard.tf.json": lambda _: _json(cloudwatch.dashboard_file()),
    f"{_ALARMS}/dashboard.json.tftpl": lambda found: _json(cloudwatch_template(found)),
}


def files(catalogue: Catalogue) -> dict[str, str]:
    """Path below the workspace to content."""
    found = {path: content(catalogue) for path, content in _FILES.items()}
    return found | {
        f"{_OURS}/grafana/dashboards/{one.uid}.json": _json(grafana(one))
        for one in dashboards(catalogue)
    }


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    parser = command_parser("//infra/observability:generate", __doc__)
    parser.parse_args(arguments)
    workspace = workspace_folder()
    for name, content in files(load()).items():
        path = workspace / name
        is_new = not path.is_file() or path.read_text(encoding="utf-8") != content
        if is_new:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        print(f"{'wrote' if is_new else '     '} {name}")
    return 0


def _in_containers() -> dict[str, object]:
    scraped = {
        "collector": "collector:8888",
        "grafana": "grafana:3000",
        "loki": "loki:3100",
        "machine": "machine:9100",
        "prometheus": "localhost:9090",
        "tempo": "tempo:3200",
        "vmagent": "vmagent:8429",
    }
    rules = "/etc/prometheus/kiln.rules.yml"
    return prometheus_config("alertmanager:9093", scraped, rules)


def _managed_alertmanager() -> str:
    """A document with another one as a string inside."""
    config = _yaml(managed_config()).removeprefix(_NOTE)
    return f"{_NOTE}alertmanager_config: |\n{indent(config, '  ')}"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _yaml(value: object) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return _NOTE + text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Writes equal values in full instead of YAML aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
