"""The interpreter that actions use."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tools.offline.host_python.bare import bare_python


def base() -> Path:
    return Path(sys._base_executable).resolve()  # type: ignore[attr-defined]


def test_it_sees_no_packages_of_the_host(tmp_path: Path) -> None:
    python = bare_python(base(), tmp_path)
    code = "import sys, json; print([p for p in sys.path if 'packages' in p and p != sys.prefix])"
    paths = subprocess.run([python, "-s", "-c", code], capture_output=True, text=True, env={})
    assert [p for p in ast.literal_eval(paths.stdout) if not p.startswith(str(tmp_path))] == []


def test_it_is_made_once(tmp_path: Path) -> None:
    assert bare_python(base(), tmp_path) == bare_python(base(), tmp_path)
