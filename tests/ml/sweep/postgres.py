"""A PostgreSQL server of the system's binaries, on loopback, for as long as a test needs it."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from common.programs import free_port

# PostgreSQL refuses to run as root, whom a container may have us be, a sandbox as the only user.
_AS_SOMEBODY = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
_OPTIONS = ("-c", "fsync=off", "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1")


def require_postgres() -> Path:
    """The folder of the server's programs; a machine that has none skips the test visibly."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    pytest.skip("no PostgreSQL server: apt-get install postgresql")


@contextmanager
def running_postgres() -> Iterator[str]:
    """Starts a server; gives the address of an empty database."""
    programs = require_postgres()
    folder = Path(tempfile.mkdtemp(prefix="kiln-postgres-"))
    user = _AS_SOMEBODY if os.geteuid() == 0 else ()
    port = free_port()
    try:
        subprocess.run(
            [*user, programs / "initdb", "-D", folder / "data", "-U", "kiln", "-A", "trust", "-N"],
            check=True,
            capture_output=True,
        )
        server = subprocess.Popen(
            [*user, programs / "postgres", "-D", folder / "data", "-p", str(port), *_OPTIONS],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port, server)
            yield f"postgresql+psycopg://kiln:secret@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # PostgreSQL then ends without waiting for clients
            server.wait(timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            psycopg.connect(f"postgresql://kiln@127.0.0.1:{port}/postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError("PostgreSQL does not answer")
