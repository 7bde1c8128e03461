"""Find the uv that installs the lock: the pinned one, from PATH or through pip by its hash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.offline.pypi_hub.distribution import HubError, Pin
from tools.provision.cache import lock, say, staged


def find_uv(pins: Iterable[Pin], cache: Path) -> Path:
    """A uv of the version that the lock pins.

    Raises:
        HubError: PATH has another version and pip cannot install the pinned one.
    """
    pin = next((pin for pin in pins if pin.name == "uv"), None)
    if pin is None:
        raise HubError("the lock does not pin uv, which installs it; add uv to requirements.in")
    installed = cache / "tools" / f"uv-{pin.version}"
    on_path = shutil.which("uv")
    if not installed.is_dir() and on_path and _version(on_path) == pin.version:
        return Path(on_path)
    with lock(cache / "locks" / f"uv-{pin.version}", "installing uv"):
        if not installed.is_dir():
            _install(pin, installed)
    return installed / "bin" / "uv"


def _version(program: str) -> str | None:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    return words[1] if done.returncode == 0 and len(words) > 1 else None


def _install(pin: Pin, target: Path) -> None:
    say(f"installing uv {pin.version}")
    with staged(target) as aside:
        requirements = aside / "requirements.txt"
        requirements.write_text(pin.text + "\n", encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--require-hashes",
            "--no-deps",
        ]
        command += [
            "--only-binary=:all:",
            "--root-user-action=ignore",
            "--target",
            str(aside),
            "--requirement",
            str(requirements),
        ]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        if subprocess.run(command, env=environment, stdout=sys.stderr).returncode:
            raise HubError(
                f"pip of {sys.executable} could not install uv {pin.version} (see above): install"
                f" pip for this Python (Debian: python3-pip), or put uv {pin.version} on PATH"
            )
