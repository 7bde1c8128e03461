"""Dashboards as Grafana takes them: stable ids, a place for each panel, known metrics alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra.observability.catalogue import load
from infra.observability.dashboards import dashboards
from infra.observability.rules import rule_file

CATALOGUE = load()
FOLDER = Path("infra/observability/grafana/dashboards")
FILES = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
RECORDED = {
    rule["record"]
    for group in rule_file(CATALOGUE)["groups"]
    for rule in group["rules"]
    if "record" in rule
}


def test_there_are_the_five_that_were_asked_for() -> None:
    assert set(FILES) == {"kiln-service", "kiln-model", "kiln-drift", "kiln-release", "kiln-cost"}
    assert {body["uid"] for body in FILES.values()} == set(FILES)
    assert dashboards(CATALOGUE)[0].uid == "kiln-service"


@pytest.mark.parametrize("uid", FILES)
def test_panels_do_not_lie_over_each_other(uid: str) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in FILES[uid]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        cells |= taken
    ids = [panel["id"] for panel in FILES[uid]["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("uid", FILES)
def test_a_panel_asks_only_for_metrics_of_the_catalogue_and_of_the_rules(uid: str) -> None:
    known = {metric.prometheus for metric in CATALOGUE.metrics} | RECORDED | {"ALERTS"}
    for promql in _queries(FILES[uid]):
        names = set(re.findall(r"\b(?:kiln[a-z0-9_:]*|process_\w+|node_\w+|up|ALERTS)\b", promql))
        names -= {"kiln_model_version"}  # a label
        assert names, promql
        assert names <= known, promql


@pytest.mark.parametrize("uid", FILES)
def test_a_link_has_all_that_the_schema_of_grafana_asks_for(uid: str) -> None:
    """DashboardLink in @grafana/schema 12.1.0: no member of it may be left out."""
    asked = {"title", "type", "icon", "tooltip", "tags", "asDropdown", "targetBlank"}
    asked |= {"includeVars", "keepTime"}
    assert [asked - set(link) for link in FILES[uid]["links"]] == [set()]


@pytest.mark.parametrize("uid", FILES)
def test_variables_that_are_used_are_there(uid: str) -> None:
    there = {variable["name"] for variable in FILES[uid]["templating"]["list"]}
    used = {name for promql in _queries(FILES[uid]) for name in re.findall(r"\$(\w+)", promql)}
    assert used <= there
    assert there >= {"datasource", "version"}


def _queries(body: dict[str, Any]) -> list[str]:
    return [t["expr"] for panel in body["panels"] for t in panel.get("targets", ())]
