"""serve/inference/quiet_onnxruntime.py: the variable is set before onnxruntime's code runs."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            sys.exit(f"told {os.environ.get('ORT_DISABLE_TELEMETRY')}")

sys.meta_path.insert(0, Finder())
import serve.inference.predictor
"""


def told(**variables: str) -> str:
    environment = {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
        "PATH": os.defpath,
        **variables,
    }
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stderr.strip()


def test_onnxruntime_is_told_not_to_report_before_it_is_loaded() -> None:
    assert told() == "told 1"


def test_who_wants_it_to_report_can_say_so() -> None:
    assert told(ORT_DISABLE_TELEMETRY="0") == "told 0"
