"""The program: stopped and begun again, watched, and asked for what cannot be done."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serve.score.main import main
from tests.helpers.waiting import PATIENCE_S, wait_until
from tests.serve.score.files import column, photos, start
from tests.serve.serving import MODEL

FEW = ("--batch-size", "1", "--workers", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("KILN_MODEL", str(MODEL.absolute()))
    photos(tmp_path / "photos", 40)
    (tmp_path / "photos/0007.png").write_bytes(b"no image")
    return tmp_path


def parts(output: Path) -> list[Path]:
    return list(output.with_name(output.name + ".parts").glob("*-*.parquet"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(
    here: Path, how: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    output = here / "out.parquet"
    stopped = start(here, "photos", "--out", "out.parquet", *FEW, most=20)
    wait_until(lambda: parts(output))
    stopped.send_signal(how)
    stopped.communicate(timeout=PATIENCE_S)
    if how == signal.SIGKILL:
        assert stopped.returncode == -signal.SIGKILL
    else:
        assert stopped.returncode == 130
    assert not output.exists()
    assert main(["photos", "--out", "out.parquet", *FEW]) == 0
    assert main(["photos", "--out", "whole.parquet"]) == 0
    assert re.search(r"[1-9]\d* of 40 ", capsys.readouterr().err)  # it resumes
    assert output.read_bytes() == (here / "whole.parquet").read_bytes()
    assert column(output, "path") == [f"photos/{number:04d}.png" for number in range(40)]
    assert not parts(output)


def test_progress_is_told_without_a_terminal(here: Path) -> None:
    program = start(here, "photos", "--out", "out.csv", *FEW, most=0)
    output, errors = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 0, errors
    lines = [line for line in errors.splitlines() if line.startswith("scoring")]
    assert any(re.search(r"\d %  \d+ images/s  1 errors  .* left", line) for line in lines), errors
    assert output.startswith("out.csv: 40 files, 1 with an error")
    assert output.splitlines()[1].split() == ["1", "unsupported-image"]


def test_files_with_errors_fail_the_run_only_if_that_is_asked_for(here: Path) -> None:
    assert main(["photos", "--out", "a.parquet"]) == 0
    assert main(["photos", "--out", "a.parquet", "--fail-on-error"]) == 1
    assert column(here / "a.parquet", "error").count("unsupported-image") == 1
    assert main(["photos/0001.png", "--out", "a.parquet", "--fail-on-error"]) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere", "--out", "a.csv"], "nowhere"),
        (["photos", "--out", "a.csv", "--model", "nowhere.onnx"], "nowhere.onnx"),
        (["photos", "--out", "a.csv", "--model", "photos/0001.png"], "photos/0001.png"),
        (["photos", "--out", "photos/0001.png/a.csv"], "photos/0001.png"),
        (["photos", "list.csv", "--out", "list.csv"], "list.csv"),
    ],
)
def test_what_cannot_be_done_is_one_error_before_any_work(
    here: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "list.csv").write_text("path\nphotos/0001.png\n")
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("kiln: error: ")
    assert errors.count("\n") == 1
    assert named in errors
    assert not (here / "a.csv").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["photos"],
        ["--out", "a.csv"],
        ["photos", "--out", "a.xlsx"],
        ["photos", "--out", "a.csv", "--top-k", "0"],
        ["photos", "--out", "a.csv", "--workers", "many"],
        ["photos", "--out", "a.csv", "--ray", "auto"],  # which this program does not carry
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_a_wrong_variable_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILN_MAX_PIXELS", "many")
        assert main(["photos", "--out", "a.csv"]) == 2
    assert "KILN_MAX_PIXELS" in capsys.readouterr().err


def test_help_loads_neither_the_runtime_nor_arrow() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "serve.score.main", "--help"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "//serve:score -- photos/ --out" in done.stdout
    assert not re.search(r"\| +(onnxruntime|pyarrow|numpy|boto3|ray)$", done.stderr, re.MULTILINE)
