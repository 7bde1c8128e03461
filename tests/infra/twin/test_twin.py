"""The whole path: images, registry, Terraform, deploy, callers, a good release and a bad one."""

from __future__ import annotations

import json
import os
import time
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from common.programs import require_program
from infra.terraform.program import TerraformMissing, find_installation
from infra.twin.main import main

PATHS = ("image", "trained", "bundled", "bundled-int8", "golden", "deploy", "load", "config")

pytestmark = pytest.mark.skipif("DEPLOY" not in os.environ, reason="run it by Bazel")


class Log(StringIO):
    """Knows when it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.times = [time.monotonic()]

    def write(self, text: str) -> int:
        self.times.append(time.monotonic())
        return super().write(text)

    @property
    def longest_silence_s(self) -> float:
        return max(after - before for before, after in pairwise([*self.times, time.monotonic()]))


def test_a_good_release_is_promoted_and_a_crashing_one_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("bwrap", "crane", "docker-registry"):
        require_program(program)
    try:
        find_installation()
    except TerraformMissing as missing:
        pytest.skip(str(missing))
    out = Path(os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", tmp_path))
    options = ["--model", "bundled", "--bad", "crashing", "--out", str(out)]
    options += [f"--{name}={os.environ[name.upper().replace('-', '_')]}" for name in PATHS]
    log = Log()
    monkeypatch.setattr("infra.twin.main.terminal", lambda *_, **__: Console(file=log, width=140))
    assert main(options) == 0, log.getvalue()
    assert log.longest_silence_s < 60  # a line every 20 s; 37 s were seen at a load of 27
    told = json.loads((out / "twin.json").read_text())
    assert told["kept"]
    good, bad = told["releases"]
    assert good["measured"]["failed"] == 0
    assert good["measured"]["candidate_calls"] > 400
    assert bad["measured"]["rollback_s"] <= 60
    assert 0 < bad["measured"]["failed"] <= bad["measured"]["candidate_failed"]
    assert any("back on version 2" in alert["subject"] for alert in told["alerts"])
    assert (out / "twin.png").read_bytes().startswith(b"\x89PNG")
