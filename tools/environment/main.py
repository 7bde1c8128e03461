"""Creates a virtual environment from the lock, for editors and notebooks: `bazel run //tools:venv`.

It has the same packages as builds, by the same hashes, and the repository's modules (`import ml`).
Bazel does not use it. Run it again after the lock changes; updating takes seconds.

  bazel run //tools:venv                   .venv in the workspace, where editors look for it
  bazel run //tools:venv -- --path /tmp/v
  bazel run //tools:venv -- --notebook     also the newest Jupyter kernel, not from the lock

Exit codes: 0 created, 1 failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.command_line import command_parser
from common.files import user_path, workspace_folder
from common.programs import wheel_program
from tools.provision.cache import cache_root

LOCK = "requirements_lock.txt"
PYTHON = "3.11"


class VenvError(Exception):
    """The environment was not created; the message says why."""


def make(environment: Path, workspace: Path, uv: Path, notebook: bool = False) -> Path:
    """Creates an environment with exactly the lock's packages and our code.

    Returns:
        Its interpreter.

    Raises:
        VenvError: there is no Python 3.11 or no disk space, or a package is unavailable or has
            another hash.
    """
    python = environment / "bin" / "python"
    settings = {
        **os.environ,
        "UV_CACHE_DIR": str(cache_root() / "uv"),
        "UV_PYTHON_DOWNLOADS": "never",
    }
    settings.pop("PYTHONPATH", None)  # Bazel's, which points to this program's packages
    commands = [["pip", "sync", "--quiet", "--require-hashes", "--python", str(python), LOCK]]
    if not python.exists():
        chosen = os.environ.get("KILN_PYTHON") or PYTHON
        commands.insert(0, ["venv", "--quiet", "--python", chosen, str(environment)])
    if notebook:
        commands.append(["pip", "install", "--quiet", "--python", str(python), "ipykernel"])
    for command in commands:
        done = subprocess.run([str(uv), *command], cwd=workspace, env=settings)
        if done.returncode:
            raise VenvError(
                f"uv {command[0]} {command[1]} did not succeed; its lines above say why"
            )
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "kiln.pth").write_text(f"{workspace}\n", encoding="utf-8")
    return python


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    workspace = workspace_folder()
    environment = (user_path(options.path) if options.path else workspace / ".venv").resolve()
    try:
        python = make(environment, workspace, wheel_program("uv"), options.notebook)
    except (VenvError, FileNotFoundError) as error:
        print(f"venv: {error}", file=sys.stderr)
        return 1
    print(f"venv: {python}")
    print(f"  . {environment}/bin/activate     in a shell; editors find .venv by themselves")
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:venv", __doc__)
    parser.add_argument("--path", help="the environment's folder (default: .venv in the workspace)")
    parser.add_argument("--notebook", action="store_true", help="add a kernel for Jupyter")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
