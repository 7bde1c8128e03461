"""Programs of the local stack: started in order, awaited until healthy, stopped together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from common.programs import free_port

_PATIENCE_S = 60.0  # generous, for busy machines
_ENDING_S = 10.0
_direct = build_opener(ProxyHandler({}))  # no proxy for loopback


class StackError(Exception):
    """The stack cannot run; the message says what to do."""


@dataclass(frozen=True)
class Program:
    """A command line, and the address that responds when it is ready: a URL, or host:port."""

    name: str
    command: Sequence[str]
    health: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Running:
    """A started program: process and log."""

    program: Program
    process: subprocess.Popen[bytes]
    log: Path

    def require_alive(self) -> None:
        """Raises StackError with the end of its log if it has exited."""
        if (code := self.process.poll()) is not None:
            last = self.log.read_text(errors="replace").splitlines()[-8:]
            raise StackError(
                f"{self.program.name} ended with code {code}; the end of {self.log}:\n  "
                + "\n  ".join(last)
            )


@contextmanager
def running(programs: Sequence[Program], folder: Path) -> Iterator[list[Running]]:
    """Runs all programs until they are ready, and while the context is open; logs go to the folder.

    Raises:
        StackError: one did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as ends:
        started: list[Running] = []
        for program in programs:
            one = ends.enter_context(_process(program, folder))
            started.append(one)
            _await(one)
        yield started


@contextmanager
def _process(program: Program, folder: Path) -> Iterator[Running]:
    log = folder / f"{program.name}.log"
    # Without variables for proxies and OpenTelemetry, which are not meant for these programs.
    environment = {"PATH": os.defpath, "HOME": str(folder), **program.environment}
    with log.open("wb") as file:
        process = subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is handled here, so that they stop in order
        )
        try:
            yield Running(program, process, log)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminates a process and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_S)


def _await(one: Running) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not answers(one.program.health):
        one.require_alive()
        if time.monotonic() > end:
            raise StackError(
                f"{one.program.name} does not answer at {one.program.health} after "
                f"{_PATIENCE_S:g} s; its log: {one.log}"
            )
        time.sleep(0.05)


def answers(address: str) -> bool:
    """Whether a URL gives 2xx, or host:port accepts connections."""
    if "://" in address:
        try:
            with _direct.open(address, timeout=2.0):
                return True
        except (OSError, HTTPException):
            return False
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((host, int(port))) == 0


def port_or_free(wanted: int) -> int:
    """The requested port if it is free, else any."""
    with suppress(OSError), socket.create_server(("127.0.0.1", wanted)) as probe:
        return int(probe.getsockname()[1])
    return free_port()
