"""Run another program for a source, with signs of life and a limit. Standard library alone."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml.data.source import Progress, SourceError

_LIMIT_S = 1800.0
_ERROR = re.compile(r"(?:npm |fatal )?error:? +(?P<message>(?:\S+ +){2}.+)", re.IGNORECASE)


def run_command(
    command: Sequence[str],
    folder: Path,
    progress: Progress,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run ``command`` in ``folder`` and return what it printed, both streams together.

    Raises:
        SourceError: it cannot be started, fails, or takes longer than half an hour.
    """
    what = f"{Path(command[0]).name} {command[1]}"
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        except OSError as exc:
            raise SourceError(f"{what} cannot be started: {exc}") from exc
        try:
            _wait(process, what, progress)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    if process.returncode:
        raise SourceError(f"{what} failed: {_gist(said) or f'exit status {process.returncode}'}")
    return said


def _wait(process: subprocess.Popen[bytes], what: str, progress: Progress) -> None:
    start = time.monotonic()
    while process.poll() is None:
        elapsed_s = time.monotonic() - start
        if elapsed_s > _LIMIT_S:
            raise SourceError(f"{what} took more than {_LIMIT_S:.0f} s")
        progress.step(what, elapsed_s, unit="s")
        time.sleep(0.05)


def _gist(said: str) -> str:
    """The line that tells most: the first error that is more than a code, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [match["message"] for line in lines if (match := _ERROR.match(line))]
    return (errors + lines[-1:] + [""])[0][:200]
