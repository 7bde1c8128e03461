"""Shared code of the dataset's sources: downloads, subprocesses, progress; and the authors'
archive.

Uses only the standard library.
"""

from __future__ import annotations

import http.client
import os
import queue
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from ml.data.cifar10_pin import Pin, PinnedFile


class SourceError(Exception):
    """A source cannot deliver; the message is one line that says why."""


class Source(Protocol):
    """A place that may hold the dataset."""

    @property
    def name(self) -> str: ...

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        """Writes both files of ``pin`` into the empty ``folder``; temporary files are allowed there
        too.

        The caller checks the files against the pin and deletes everything else.

        Raises:
            SourceError: it cannot.
        """


class Progress:
    """Progress lines: redrawn in place on a terminal, otherwise one every few seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._redraws = self._stream.isatty()
        self._interval_s = 0.1 if self._redraws else 3.0
        self._shown_at = time.monotonic()
        self._open_line = False

    def say(self, message: str) -> None:
        self._stream.write(("\n" if self._open_line else "") + f"cifar10: {message}\n")
        self._stream.flush()
        self._open_line = False
        self._shown_at = time.monotonic()

    def step(self, what: str, done: float, total: float | None = None, unit: str = "MB") -> None:
        """Reports the progress of ``what``; may be called often, shows at most one line per
        interval."""
        finished = total is not None and done >= total
        now = time.monotonic()
        if now - self._shown_at < self._interval_s and not (finished and self._open_line):
            return
        self._shown_at = now
        share = f" of {total:.0f} {unit} ({done / total:.0%})" if total else f" {unit}"
        line = f"cifar10: {what}: {done:.0f}{share}"
        self._stream.write(f"\r\x1b[K{line}" if self._redraws else f"{line}\n")
        self._stream.flush()
        self._open_line = self._redraws


_LIMIT_S = 1800.0
_ERROR = re.compile(r"(?:npm |fatal )?error:? +(?P<message>(?:\S+ +){2}.+)", re.IGNORECASE)


def run_command(
    command: Sequence[str],
    folder: Path,
    progress: Progress,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Runs ``command`` in ``folder`` and returns its output, both streams together.

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
    """The most informative line: the first error that is more than a code, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [match["message"] for line in lines if (match := _ERROR.match(line))]
    return (errors + lines[-1:] + [""])[0][:200]


# DNS lookup, connection and headers together: without internet access, a download fails this soon.
OPEN_LIMIT_S = 10.0
_READ_LIMIT_S = 30.0  # without data in the middle of a body
_BLOCK = 1 << 20


def download(
    url: str, target: Path, size: int, progress: Progress, *, open_limit_s: float = OPEN_LIMIT_S
) -> None:
    """Writes the body of ``url`` to ``target``; the caller checks it against a hash.

    Raises:
        SourceError: not reachable in time, an error status, an interrupted body, or more than
            ``size`` bytes.
    """
    try:
        with _open(url, open_limit_s) as response, target.open("wb") as file:
            done = 0
            while block := response.read1(_BLOCK):  # what has arrived: slow is not stalled
                done += len(block)
                if done > size:
                    raise SourceError(f"{url} sends more than the expected {size} bytes")
                file.write(block)
                progress.step(f"downloading {target.name}", done / 1e6, size / 1e6)
    except (OSError, http.client.HTTPException) as exc:
        raise SourceError(f"{url} broke off: {_reason(exc)}") from exc


def _open(url: str, limit_s: float) -> Any:
    """The response with its headers; opened in a thread, because a DNS lookup has no timeout."""
    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def open_url() -> None:
        try:
            response = urllib.request.urlopen(url, timeout=_READ_LIMIT_S)  # noqa: S310 # pinned
            opened.put(response)
        except Exception as exc:  # passed to the waiting thread
            opened.put(exc)

    if not url.startswith(("http://", "https://")):
        raise SourceError(f"{url} is not an http(s) address")
    threading.Thread(target=open_url, daemon=True).start()
    try:
        response = opened.get(timeout=limit_s)
    except queue.Empty:
        raise SourceError(f"{url} did not answer within {limit_s:g} s") from None
    if isinstance(response, urllib.error.HTTPError):
        response.close()
        raise SourceError(f"{url} answered {response.code} {response.reason}")
    if isinstance(response, Exception):
        raise SourceError(f"{url} is not reachable: {_reason(response)}") from response
    return response


def _reason(exc: BaseException) -> str:
    return str(getattr(exc, "reason", "") or exc or type(exc).__name__).replace("\n", " ")


_TRAIN_BATCHES = tuple(f"data_batch_{batch}.bin" for batch in range(1, 6))
_TEST_BATCHES = ("test_batch.bin",)
_ARCHIVE = PinnedFile("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171)


@dataclass(frozen=True)
class OfficialSource:
    """Source 2: the archive published by the authors of CIFAR-10; ``archive`` has the MD5 from
    their page.

    Of the published formats this is the binary one: the same records as in the pickles that
    torchvision downloads, without the need to execute a pickle.
    """

    url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    archive: PinnedFile = _ARCHIVE
    open_limit_s: float = OPEN_LIMIT_S
    name: str = "official"

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        archive = folder / self.archive.name
        download(self.url, archive, self.archive.size, progress, open_limit_s=self.open_limit_s)
        self.archive.check(archive)
        progress.say(f"unpacking {archive.name}")
        batches = _read_batches(archive, largest=max(file.size for file in pin.files))
        for file, names in ((pin.train, _TRAIN_BATCHES), (pin.test, _TEST_BATCHES)):
            (folder / file.name).write_bytes(b"".join(batches[name] for name in names))


def _read_batches(archive: Path, largest: int) -> dict[str, bytes]:
    """The six batches, read into memory: nothing is extracted to disk, no path of the archive is
    used."""
    batches: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./").removeprefix("cifar-10-batches-bin/")
                if (
                    name in _TRAIN_BATCHES + _TEST_BATCHES
                    and member.isfile()
                    and member.size <= largest
                ):
                    file = tar.extractfile(member)
                    batches[name] = file.read() if file else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as exc:
        raise SourceError(f"{archive.name} cannot be unpacked: {exc}") from exc
    if missing := sorted(set(_TRAIN_BATCHES + _TEST_BATCHES) - set(batches)):
        raise SourceError(f"{archive.name} lacks {', '.join(missing)}")
    return batches
