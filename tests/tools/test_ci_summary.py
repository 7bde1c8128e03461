"""The last lines of .ci/run: every case counted once, and nothing broken left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.ci_summary import main

PASS, FAIL = '<testcase name="a"/>', '<testcase name="b"><failure message="no"/></testcase>'
SKIP = '<testcase name="c"><skipped message="no npm: apt-get install npm"/></testcase>'


def result(
    folder: Path, label: str, status: str, cases: str, *, ms: int = 0, **where: int
) -> dict[str, Any]:
    home = folder / f"{label.strip('/').replace('/', '_')}{sorted(where.values())}"
    home.mkdir()
    (home / "test.xml").write_text(cases if cases.startswith("<?") else f"<suite>{cases}</suite>")
    (home / "test.log").write_text(f"log of {label}\n")
    outputs = [{"name": name, "uri": (home / name).as_uri()} for name in ("test.xml", "test.log")]
    return {
        "id": {"testResult": {"label": label, **where}},
        "testResult": {
            "status": status,
            "testActionOutput": outputs,
            "testAttemptDurationMillis": str(ms),
        },
    }


def summarise(folder: Path, *events: dict[str, Any]) -> int:
    file = folder / "events.json"
    file.write_text("\n".join(map(json.dumps, events)) + "\n")
    return main([str(file)])


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_cases_of_all_targets_and_shards_add_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = summarise(
        tmp_path,
        result(tmp_path, "//a", "PASSED", PASS * 2, shard=1),
        result(tmp_path, "//a", "PASSED", PASS, shard=2),
        result(tmp_path, "//b", "PASSED", PASS),
    )
    assert (code, last_line(capsys)) == (0, "4 passed, 0 failed")


def test_a_failed_case_is_named_with_the_end_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert summarise(tmp_path, result(tmp_path, "//a", "FAILED", PASS + FAIL)) == 1
    shown = capsys.readouterr().out
    assert "log of //a" in shown
    assert "FAILED //a: b" in shown
    assert shown.splitlines()[-1] == "1 passed, 1 failed"


def test_a_skip_is_named_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert summarise(tmp_path, result(tmp_path, "//a", "PASSED", PASS + SKIP)) == 0
    shown = capsys.readouterr().out
    assert "SKIPPED //a: c: no npm: apt-get install npm" in shown
    assert shown.splitlines()[-1] == "1 passed, 0 failed, 1 skipped"


@pytest.mark.parametrize("cases", [PASS, "", "<?xml cut off"])
def test_a_target_that_fails_without_a_failed_case_counts_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: str
) -> None:
    assert summarise(tmp_path, result(tmp_path, "//a", "TIMEOUT", cases)) == 1
    assert "FAILED //a: TIMEOUT" in capsys.readouterr().out


def test_a_target_that_does_not_build_counts_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"id": {"targetCompleted": {"label": "//b"}}, "completed": {}}
    aborted = {"id": {"targetCompleted": {"label": "//c"}}, "aborted": {"reason": "ANALYSIS"}}
    assert summarise(tmp_path, result(tmp_path, "//a", "PASSED", PASS), broken, aborted) == 1
    assert last_line(capsys) == "1 passed, 2 failed"


def test_of_several_attempts_the_last_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = result(tmp_path, "//a", "FAILED", FAIL, attempt=1)
    second = result(tmp_path, "//a", "PASSED", PASS, attempt=2)
    assert (summarise(tmp_path, first, second), last_line(capsys)) == (0, "1 passed, 0 failed")


def test_the_ten_slowest_targets_stand_before_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [result(tmp_path, f"//q{n}", "PASSED", PASS, ms=1000 + n) for n in range(11)]
    shards = [result(tmp_path, "//s", "PASSED", PASS, ms=4000, shard=n) for n in (1, 2)]
    cached = result(tmp_path, "//cached", "PASSED", PASS, ms=90_000)
    cached["testResult"]["cachedLocally"] = True
    slow = result(tmp_path, "//slow", "FAILED", FAIL, ms=65_432)
    assert summarise(tmp_path, *quick, *shards, cached, slow) == 1
    table = capsys.readouterr().out.partition("Slowest of the 13 targets")[2]
    *rows, last = table.splitlines()[1:]
    shown = [row.split() for row in rows if row]
    assert [row[2] for row in shown] == ["//slow", "//s", *(f"//q{n}" for n in range(10, 2, -1))]
    assert (shown[0][0], shown[1][0], shown[1][4]) == ("65.4", "8.0", "2")
    assert last == "14 passed, 1 failed"


def test_a_run_without_any_test_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (main([str(tmp_path / "absent")]), last_line(capsys)) == (1, "0 passed, 0 failed")
