"""infra/release/verdict:judge: what is typed, and what is answered."""

import json
from collections.abc import Callable
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from rich.console import Console

from infra.release.verdict.engine import judge
from infra.release.verdict.evidence import Evidence, Window, evidence_json, parse_evidence
from infra.release.verdict.judge import main
from infra.release.verdict.policy import DEFAULT_POLICY, SHARES, Policy, parse_policy
from tests.infra.release.verdict.made import SAME_PREDICTIONS, arm, evidence, good, releases

BAD = evidence(Window(arm(4000, 4), arm(200, 100), SAME_PREDICTIONS))


def said(*arguments: str | Path) -> tuple[int, str]:
    console = Console(file=StringIO(), width=140)
    code = main([str(argument) for argument in arguments], console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def written(path: Path, release: Evidence) -> Path:
    path.write_text(evidence_json(release))
    return path


@pytest.mark.parametrize(
    ("release", "code", "word"),
    [(good(6), 0, "PROMOTE"), (good(1), 10, "HOLD"), (BAD, 20, "ROLL BACK")],
)
def test_the_exit_code_says_what_the_table_says(
    tmp_path: Path, release: Evidence, code: int, word: str
) -> None:
    assert said(written(tmp_path / "e.json", release)) == (code, said(tmp_path / "e.json")[1])
    text = said(tmp_path / "e.json")[1]
    assert word in text
    assert "candidate requests failed" in text


def test_json_has_the_whole_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(written(tmp_path / "e.json", BAD), "--json")[0] == 20
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(json.dumps(asdict(judge(BAD))))
    assert document["decision"] == "roll back"


def test_a_policy_changes_the_verdict(tmp_path: Path) -> None:
    file = written(tmp_path / "e.json", good(1))
    policy = tmp_path / "policy.toml"
    policy.write_text("harmful_error_excess = 0.5\nrequired = ['errors']\nfewest_images = 10\n")
    assert said(file)[0] == 10
    assert said(file, "--policy", policy)[0] == 0


def test_the_example_can_be_judged(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert said("--example")[0] == 0
    (tmp_path / "example.json").write_text(capsys.readouterr().out)
    assert said(tmp_path / "example.json")[0] == 10


def test_the_defaults_are_a_policy_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert said("--defaults")[0] == 0
    assert parse_policy(capsys.readouterr().out) == DEFAULT_POLICY


@given(releases())
@settings(max_examples=25, deadline=None)
def test_evidence_survives_its_file(release: Evidence) -> None:
    assert parse_evidence(evidence_json(release)) == release


def _set(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("windows", 0, "candidate", "errors", value=-1), "$.windows[0].candidate.errors"),
        (
            _set("windows", 0, "candidate", "errors", value=10**6),
            "errors and refusals of 1000 requests",
        ),
        (_set("windows", 0, "candidate", "latency", value=[1, 2]), "latency: lengths differ"),
        (_set("windows", 0, "candidate", "latency", value=7), "$.windows[0].candidate.latency"),
        (_set("windows", 0, "candidate", "requests", value=1), "latencies of 1 requests"),
        (_set("windows", 0, "candidate", "classes", value=[1, 2, 3]), "classes: lengths differ"),
        (_set("windows", 0, "candidate", "requests", value="7"), "$.windows[0].candidate.requests"),
        (_set("windows", 0, "candidate", "requests", value=True), "candidate.requests"),
        (_set("windows", 0, "candidate", value=[]), "$.windows[0].candidate"),
        (_set("windows", 0, "golden", "lost", value=1), "field `lost` - at `$.windows[0].golden`"),
        (_set("windows", value={}), "$.windows"),
        (_set("latency_edges_s", value=[2, 1]), "latency_edges_s: expected increasing"),
        (_set("latency_edges_s", value="1"), "$.latency_edges_s"),
        (_set("stable", value=12), "$.stable"),
        (lambda document: document.pop("candidate"), "field `candidate`"),
    ],
)
def test_wrong_evidence_is_named_and_judged_by_nobody(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Any], None],
    message: str,
) -> None:
    document = json.loads(evidence_json(good(2)))
    change(document)
    (tmp_path / "e.json").write_text(json.dumps(document))
    assert said(tmp_path / "e.json") == (2, "")
    error = capsys.readouterr().err
    assert message in error
    assert "e.json" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("false_alarm_rate = 2", "$.false_alarm_rate"),
        ("false_alarm_rate = 0", "$.false_alarm_rate"),
        ("missed_harm_rate = 0.501", "$.missed_harm_rate"),
        ("tolerated_latency_ratio = 0.999", "$.tolerated_latency_ratio"),
        ("harmful_disagreement = 1", "$.harmful_disagreement"),
        ("false_alarm_rate = 'low'", "$.false_alarm_rate"),
        ("false_alarms = 0.1", "field `false_alarms`"),
        ("harmful_latency_ratio = 1.1", "more than tolerated_latency_ratio"),
        ("required = ['speed']", "$.required"),
        ("required = []", "$.required"),
        ("required = 'errors'", "$.required"),
        ("fewest_images = 0", "$.fewest_images"),
        ("fewest_images", "Expected '='"),
    ],
)
def test_a_wrong_policy_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "p.toml").write_text(text)
    file = written(tmp_path / "e.json", good(1))
    assert said(file, "--policy", tmp_path / "p.toml") == (2, "")
    assert message in capsys.readouterr().err


def test_no_file_and_no_json_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(tmp_path / "none.json") == (2, "")
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "e.json").write_text("{")
    assert said(tmp_path / "e.json") == (2, "")
    assert "e.json" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        said()
    assert left.value.code == 2


def test_the_parts_of_the_false_alarm_rate_sum_to_it() -> None:
    policy = Policy(false_alarm_rate=0.04)
    tests = [name for name in SHARES if name != "predictions"]
    looks = sum(policy.rate_at_look(look) for look in range(1, 10_000))
    spent = sum(1 / policy.odds_of_harm(test) for test in tests) + looks
    assert spent == pytest.approx(0.04, rel=1e-3)
    assert spent <= 0.04
    tests.append("labels")
    with_labels = sum(1 / policy.odds_of_harm(test, labelled=True) for test in tests) + looks
    assert with_labels == pytest.approx(spent)
