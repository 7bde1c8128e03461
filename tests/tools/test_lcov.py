"""Coverage reports: reading, adding up, and the table that people read."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.coverage import lcov, table

A = "SF:ml/a.py\nDA:1,1\nDA:2,0\nBRDA:1,0,jump to line 2,-\nBRDA:1,0,exit, now,1\nend_of_record\n"
B = "TN:\nSF:ml/a.py\nDA:2,3,checksum\nBRDA:1,0,jump to line 2,0\nend_of_record\n"

counts = st.dictionaries(st.integers(1, 9), st.integers(0, 5))
branch_counts = st.dictionaries(
    st.tuples(st.integers(1, 9), st.sampled_from("01"), st.sampled_from(["exit", "a,b"])),
    st.none() | st.integers(0, 5),
)
tracefiles = st.dictionaries(
    st.sampled_from(["ml/a.py", "serve/b.py"]),
    st.builds(lcov.FileCoverage, counts, branch_counts),
)


def test_reports_of_one_file_add_up() -> None:
    merged = lcov.merge([lcov.parse(A), lcov.parse(B)])["ml/a.py"]
    assert merged.lines == {1: 1, 2: 3}
    assert merged.branches == {(1, "0", "jump to line 2"): 0, (1, "0", "exit, now"): 1}


@given(tracefiles)
def test_what_is_written_reads_back(files: dict[str, lcov.FileCoverage]) -> None:
    assert lcov.parse(lcov.render(files)) == files


@given(tracefiles, tracefiles)
def test_the_order_of_reports_does_not_matter(
    one: dict[str, lcov.FileCoverage], other: dict[str, lcov.FileCoverage]
) -> None:
    assert lcov.merge([one, other]) == lcov.merge([other, one])


@pytest.mark.parametrize("text", ["DA:1,1\n", "SF:a\nDA:1\n", "SF:a\nBRDA:1,0,x\n"])
def test_a_malformed_record_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d"):
        lcov.parse(text)


def test_the_merger_adds_up_a_tests_own_folder(tmp_path: Path) -> None:
    (tmp_path / "one.dat").write_text(A)
    (tmp_path / "two.dat").write_text(B)
    output = tmp_path / "out" / "merged.lcov"
    output.parent.mkdir()
    arguments = [f"--coverage_dir={tmp_path}", f"--output_file={output}"]
    assert lcov.main([*arguments, "--filter_sources=/usr/.+", "--source_file_manifest=x"]) == 0
    assert lcov.parse(output.read_text())["ml/a.py"].lines == {1: 1, 2: 3}


def test_the_merger_adds_up_a_list_of_reports(tmp_path: Path) -> None:
    (tmp_path / "one.dat").write_text(A)
    (tmp_path / "list").write_text(f"{tmp_path / 'one.dat'}\n")
    output = tmp_path / "merged"
    assert lcov.main([f"--reports_file={tmp_path / 'list'}", f"--output_file={output}"]) == 0
    assert lcov.parse(output.read_text()) == lcov.parse(A)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not on PATH; install it: apt-get install git")
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "a.py").write_text("x = 1\ny = 2\n")
    (tmp_path / "ml" / "unimported.py").write_text("# said aloud\nx = 1\ny = (\n    2\n)\n")
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "report").write_text(A)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("baseline", ["", "SF:ml/unimported.py\nLF:0\nLH:0\nend_of_record\n"])
def test_files_that_no_test_imports_count_as_missed(
    workspace: Path, capsys: pytest.CaptureFixture[str], baseline: str
) -> None:
    workspace.joinpath("report").write_text(A + baseline)
    assert table.main(["--report=report"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].split() == ["total", "4", "25.0", "%", "2", "50.0", "%"]


def test_too_little_coverage_fails_and_says_what_was_wanted(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["--report=report", "--fail-under=90"]) == 1
    assert {"25.0", "90"} <= set(capsys.readouterr().out.splitlines()[-1].split())


def test_a_missing_report_says_how_to_make_one(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main([]) == 2
    assert "bazel coverage" in capsys.readouterr().err


def test_reading_a_long_report_is_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(text: str) -> dict[str, lcov.FileCoverage]:
        until, said = time.monotonic() + 60, ""
        while "still reading the report" not in said:
            assert time.monotonic() < until
            said += capsys.readouterr().err
        return {}

    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    monkeypatch.setattr(lcov, "parse", read)
    monkeypatch.setattr(table, "tracked_files", lambda *_: [])
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").write_text("")
    assert table.main(["--report", "report"]) == 0
