"""What the scan for unsafe Python finds, and how it is excused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

BANDIT = str(Path(os.environ["BANDIT"]).absolute())


def scan(folder: Path, file: str, text: str) -> subprocess.CompletedProcess[str]:
    """The program, in the folder."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return subprocess.run([BANDIT, file], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("import subprocess\nsubprocess.run('ls ' + x, shell=True)\n", "B602"),
        ("import hashlib\nhashlib.md5(b'')\n", "B324"),
        ("eval(x)\n", "B307"),
        ("import requests\nrequests.get('https://a', verify=False)\n", "B501"),
    ],
)
def test_unsafe_code_is_found(tmp_path: Path, text: str, check: str) -> None:
    done = scan(tmp_path, "serve/a.py", text)
    assert done.returncode == 1
    assert check in done.stdout


def test_a_reason_excuses_one_check_only(tmp_path: Path) -> None:
    excused = "eval(x)  # nosec B307 # of our own making\n"
    assert scan(tmp_path, "a.py", excused).returncode == 0
    assert scan(tmp_path, "a.py", excused.replace("B307", "B602")).returncode == 1


@pytest.mark.parametrize("excuse", ["", " B307", " B307 #"])
def test_an_excuse_needs_a_check_and_a_reason(tmp_path: Path, excuse: str) -> None:
    done = scan(tmp_path, "a.py", f"eval(x)  # nosec{excuse}\n")
    assert done.returncode == 1
    assert "nosec must" in done.stdout


def test_a_test_may_read_its_own_server(tmp_path: Path) -> None:
    text = "from urllib.request import urlopen\nurlopen(url)\n"
    assert scan(tmp_path, "tests/test_a.py", text).returncode == 0
    assert scan(tmp_path, "serve/a.py", text).returncode == 1
