"""Prometheus' own tool accepts the rules, and each alert fires when it should and not before."""

from __future__ import annotations

import json
import subprocess
from itertools import chain
from pathlib import Path

import pytest
import yaml

from common.programs import require_program
from infra.observability.catalogue import load
from infra.observability.rules import FAST, SLOW, added, rule_file
from tests.infra.observability.rule_cases import CASES, promtool_test, together

RULES = Path("infra/observability/prometheus/kiln.rules.yml").absolute()
CATALOGUE = load()
CONTENT = rule_file(CATALOGUE)
ALERTS = {
    rule["alert"] for group in CONTENT["groups"] for rule in group["rules"] if "alert" in rule
}


def promtool(*arguments: str) -> str:
    program = str(require_program("promtool"))
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


@pytest.mark.parametrize("interval", ["1m", "15m"])
def test_every_alert_fires_and_keeps_quiet(tmp_path: Path, interval: str) -> None:
    file = tmp_path / "cases.yml"
    file.write_text(json.dumps(promtool_test(str(RULES), CONTENT, interval)))  # JSON is YAML
    assert "SUCCESS" in promtool("test", "rules", str(file))


@pytest.mark.parametrize("fires", [True, False])
def test_no_alert_is_without_a_case(fires: bool) -> None:
    assert {case.interval for case in CASES} == {"1m", "15m"}
    assert {case.alert for case in CASES if case.fires is fires} == ALERTS


def test_cases_meet_in_a_run_only_where_no_alert_looks_at_series_of_another() -> None:
    runs = [[case.what for case in run] for run in together(CASES, CONTENT)]
    (errors,) = (run for run in runs if "2 % of the answers" in run)
    assert "a single one" in errors  # of the internal errors, which are counted apart
    assert "3 % slower than a second" in errors
    assert "every 10th answer a 500" not in errors  # the availability is recorded from all answers
    assert "never up" not in errors
    assert sorted(chain.from_iterable(runs)) == sorted(case.what for case in CASES)


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    wrong = promtool_test(str(RULES), CONTENT)
    wrong["tests"] = wrong["tests"][:1]
    wrong["tests"][0]["promql_expr_test"][0]["exp_samples"] = []
    file = tmp_path / "wrong.yml"
    file.write_text(json.dumps(wrong))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", str(file))


def test_every_alert_of_the_catalogue_is_a_rule_with_a_summary_and_a_runbook() -> None:
    expected = {alert.name for metric, alert in CATALOGUE.alerts if metric.owner != "aws"}
    expected |= {
        f"{one.alert}{pace}Burn" for one in CATALOGUE.objectives for pace in ("Fast", "Slow")
    }
    assert expected | {CATALOGUE.recovery.name} == ALERTS
    for group in CONTENT["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["labels"]["severity"] in {"page", "warning"}
                assert rule["annotations"]["summary"]
                link = rule["annotations"]["runbook_url"]
                assert link == f"{CATALOGUE.runbook}#{rule['alert'].lower()}"
                assert link.startswith("https://")


def test_managed_prometheus_gets_the_recorded_series_and_no_alert_on_what_is_not_there() -> None:
    text = Path("infra/terraform/roots/observability/rules.yml.tftpl").read_text(encoding="utf-8")
    assert "${" not in text  # nothing that Terraform would fill in
    assert "%{" not in text
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    ours = [rule for group in CONTENT["groups"] for rule in group["rules"]]
    assert [r for r in rules if "record" in r] == [r for r in ours if "record" in r]
    left_out = ALERTS - {rule["alert"] for rule in rules if "alert" in rule}
    assert left_out == {
        "AvailabilityFastBurn",
        "AvailabilitySlowBurn",
        "MachineBusy",
        "MachineDiskLow",
        "MachineMemoryLow",
        "RecoveryTooSlow",
        "StackPartDown",
    }


def test_burn_rates_are_those_of_the_workbook() -> None:
    """Each rate times its long window is the share of a month's budget in table 5-8."""
    hours = {"1h": 1, "6h": 6, "1d": 24, "3d": 72}
    spent = [round(factor * hours[long] / (30 * 24), 3) for factor, long, _ in (*FAST, *SLOW)]
    assert spent == [0.02, 0.05, 0.1, 0.1]


def test_what_was_added_is_exact_for_series_old_new_silent_and_gone(tmp_path: Path) -> None:
    values = {
        "old": "0+10x20",  # 50 in the last 5 minutes
        "new": "_x13 7 9",  # all of its 9
        "silent": "100 _x12 103",  # nothing for a while, then 3 more
        "gone": "0+1x5",  # ended before
    }
    expected = {"old": 50, "new": 9, "silent": 3}
    test = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f'c{{kind="{kind}"}}', "values": value}
                    for kind, value in values.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": added("c", "5m"),
                        "eval_time": "15m",
                        "exp_samples": [
                            {"labels": f'{{kind="{kind}"}}', "value": value}
                            for kind, value in expected.items()
                        ],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "added.yml"
    file.write_text(json.dumps(test))
    promtool("test", "rules", str(file))
