"""infra/observability/catalogue.py: names as Prometheus has them, mistakes named."""

from pathlib import Path

import pytest

from infra.observability.catalogue import PATH, CatalogueError, kebab, load, seconds


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("http.server.request.duration", "http_server_request_duration_seconds"),
        ("kiln.errors", "kiln_errors_total"),
        ("kiln.drift.alarm", "kiln_drift_alarm_ratio"),
        ("kiln.queue.depth", "kiln_queue_depth"),
        ("kiln.confidence", "kiln_confidence"),
        ("process.cpu.time", "process_cpu_time_seconds_total"),
        ("node.memory.MemTotal", "node_memory_MemTotal_bytes"),
        ("up", "up"),
    ],
)
def test_a_metric_has_the_name_that_the_collector_gives_it(name: str, expected: str) -> None:
    assert load()[name].prometheus == expected


def test_names_and_windows_are_turned_into_what_others_use() -> None:
    assert kebab("ErrorShare") == "error-share"
    assert [seconds(window) for window in ("5m", "1h", "3d")] == [300, 3600, 259_200]


def test_a_budget_is_what_an_objective_leaves() -> None:
    assert {one.name: one.budget for one in load().objectives} == {
        "availability": 0.001,
        "errors": 0.001,
        "latency": 0.01,
    }


@pytest.mark.parametrize("url", ["docs/runbook.md", "https://x.org/page#part", ""])
def test_a_runbook_that_no_link_leads_to_is_refused(tmp_path: Path, url: str) -> None:
    text, file = PATH.read_text(encoding="utf-8"), tmp_path / "catalogue.toml"
    file.write_text(text.replace(load().runbook, url, 1), encoding="utf-8")
    with pytest.raises(CatalogueError):
        load(file)


@pytest.mark.parametrize(
    ("found", "instead", "says"),
    [
        ('severity = "page"\n', "", "severity"),
        ('statistic = "share"\n', 'statistic = "share"\ncolour = "red"\n', "colour"),
    ],
)
def test_an_entry_that_nobody_understands_is_named(
    tmp_path: Path, found: str, instead: str, says: str
) -> None:
    text = PATH.read_text(encoding="utf-8")
    assert found in text
    file = tmp_path / "catalogue.toml"
    file.write_text(text.replace(found, instead, 1), encoding="utf-8")
    with pytest.raises(CatalogueError, match=f"ErrorShare in the catalogue.*{says}"):
        load(file)
