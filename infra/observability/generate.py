"""Generates everything that follows from the catalogue; a test fails if a file is out of date.

bazel run //infra/observability:generate
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from infra.observability import cloudwatch, cloudwatch_dashboard
from infra.observability.catalogue import Catalogue, load
from infra.observability.dashboard_panels import grafana
from infra.observability.dashboard_release import dashboards
from infra.observability.rules import rule_file
from infra.observability.runbook import runbook
from infra.observability.stack.local import prometheus_config

_NOTE = "# From catalogue.toml: bazel run //infra/observability:generate\n"
_OURS = "infra/observability"
_ALARMS = "infra/terraform/modules/alarms"

# Each path below the workspace, and who writes its content.
_FILES: Mapping[str, Callable[[Catalogue], str]] = {
    "docs/runbook.md": runbook,
    f"{_OURS}/prometheus/kiln.rules.yml": lambda found: _yaml(rule_file(found)),
    f"{_OURS}/compose/prometheus.yml": lambda _: _yaml(_in_containers()),
    f"{_ALARMS}/alarms.tf.json": lambda found: _json(cloudwatch.alarms_file(found)),
    f"{_ALARMS}/burn.tf.json": lambda found: _json(cloudwatch.burn_file(found)),
    f"{_ALARMS}/dashboard.tf.json": lambda _: _json(cloudwatch.dashboard_file()),
    f"{_ALARMS}/dashboard.json.tftpl": lambda found: _json(cloudwatch_dashboard.body(found)),
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
    parser = argparse.ArgumentParser(
        prog="bazel run //infra/observability:generate --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    workspace = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
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


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _yaml(value: object) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return _NOTE + text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Writes equal values out in full, each where it belongs."""

    def ignore_aliases(self, data: object) -> bool:
        return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
