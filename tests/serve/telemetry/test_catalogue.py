"""infra/observability/catalogue.toml is well-formed and says what the service does."""

import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from serve.telemetry.instruments import ALL, Instrument

CATALOGUE: list[dict[str, Any]] = tomllib.loads(
    Path("infra/observability/catalogue.toml").read_text(encoding="utf-8")
)["metric"]
STATISTICS = {
    "counter": {"rate", "increase", "share"},
    "gauge": {"max", "min"},
    "histogram": {"p50", "p95", "p99", "share"},
}


def test_the_service_has_the_metrics_of_the_catalogue_in_every_particular() -> None:
    ours = [entry for entry in CATALOGUE if entry["owner"] == "service"]
    assert [_instrument(entry) for entry in ours] == list(ALL)


def _instrument(entry: dict[str, Any]) -> Instrument:
    values = {name: entry[name] for name in asdict(ALL[0]) if name in entry}
    facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Instrument(**facts)


def test_names_are_unique() -> None:
    names = [entry["name"] for entry in CATALOGUE]
    alerts = [alert["name"] for entry in CATALOGUE for alert in entry.get("alerts", ())]
    assert len(set(names)) == len(names)
    assert len(set(alerts)) == len(alerts)


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry["name"])
def test_an_entry_is_complete(entry: dict[str, Any]) -> None:
    needed = {"name", "owner", "kind", "unit", "labels", "description"}
    assert needed <= set(entry) <= {*needed, "buckets", "alerts"}
    assert entry["owner"] in {"service", "live", "release", "machine", "prometheus", "aws"}
    assert ("buckets" in entry) == (entry["kind"] == "histogram")
    assert entry.get("buckets", []) == sorted(set(entry.get("buckets", [])))
    assert len(entry["labels"]) <= 4
    for alert in entry.get("alerts", ()):
        assert alert["statistic"] in STATISTICS[entry["kind"]]
        assert set(alert.get("matching", {})) <= set(entry["labels"])
        assert alert["severity"] in {"page", "warning"}
        assert len({"above", "below"} & set(alert)) == 1
        assert alert.get("above", 0) >= 0
        assert all(alert[part] for part in ("means", "look", "act"))
        assert alert["window"][:-1].isdigit()
        assert alert["window"][-1] in "mh"
