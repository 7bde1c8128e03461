"""The runbook has a section for every alert that can come, and none besides."""

import re
from pathlib import Path

from infra.observability.catalogue import load
from infra.observability.rules import rule_file

PAGE = Path("docs/runbook.md").read_text(encoding="utf-8")


def test_every_alert_has_its_section() -> None:
    alerts = [
        rule["alert"]
        for group in rule_file(load())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert sorted(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)) == sorted(alerts)


def test_a_section_says_what_it_means_what_to_look_at_and_what_to_do() -> None:
    for section in PAGE.split("\n## ")[1:]:
        name, _, body = section.partition("\n")
        assert len(body.split("Look at:")[0].strip()) > 40, name
        assert re.search(r"Look at:\n\n- .+\n(- .+\n)*\nThen:\n\n- .+", body), name


def test_links_within_the_page_lead_somewhere() -> None:
    anchors = {heading.lower() for heading in re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", PAGE)) == anchors
