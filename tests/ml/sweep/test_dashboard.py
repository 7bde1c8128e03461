"""A sweep in optuna-dashboard: the real server, on the sweep's own storage."""

import json
import os
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution

from common.programs import free_port
from ml.sweep.study import open_study
from tests.helpers.program import Program
from tests.helpers.waiting import wait_until
from tests.ml.sweep.plans import small_plan


def test_the_dashboard_lists_the_study_and_its_trials(tmp_path: Path) -> None:
    study = open_study(small_plan(tmp_path), create=True)
    study.add_trial(
        optuna.create_trial(
            params={"label_smoothing": 0.25},
            distributions={"label_smoothing": FloatDistribution(0, 0.5)},
            value=0.75,
        )
    )
    port = free_port()
    environment = os.environ | {
        "BUILD_WORKSPACE_DIRECTORY": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    sweep = (
        "sweep=base",
        "sweep.name=small",
        "experiment=smoke",
        "label_smoothing=interval(0,0.5)",
    )
    options = ("--dashboard", "--port", str(port))
    with Program("ml.sweep.main", *options, *sweep, cwd=tmp_path, env=environment) as program:
        try:
            wait_until(lambda: _answers(port) or program.poll() is not None, "the dashboard")
            (known,) = _get(port, "/api/studies")["study_summaries"]
            assert (known["study_name"], known["directions"]) == ("small", ["maximize"])
            shown = _get(port, f"/api/studies/{known['study_id']}")
            (trial,) = shown["trials"]
            assert trial["values"] == [0.75]
            assert b"<title>Optuna Dashboard" in _read(port, "/dashboard/")
        finally:
            program.terminate()  # a shell's background job would ignore Ctrl-C's signal
        assert program.wait(60) == -signal.SIGTERM


def _read(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        content: bytes = answer.read()
    return content


def _get(port: int, path: str) -> Any:
    return json.loads(_read(port, path))


def _answers(port: int) -> bool:
    try:
        return bool(_read(port, "/api/studies"))
    except OSError:
        return False
