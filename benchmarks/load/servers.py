"""Server processes under test, ours and the alternatives, and their resource usage."""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from benchmarks.load.client import Job, Load
from common.programs import free_port, python_environment, wheel_program

_START_S = 120
_STARTED = 19  # index of the start time in /proc/PID/stat after the name
_TICKS = os.sysconf("SC_CLK_TCK")


class ServerFailed(Exception):
    """A server did not start; the message has its last output."""


def interruptible(main: Callable[[], int]) -> int:
    """Runs a program so that Ctrl-C and SIGTERM also stop its children; returns its exit code, or
    130.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return main()
    except KeyboardInterrupt:
        sys.stderr.write("kiln: interrupted\n")
        return 130


def at_least(low: int) -> Callable[[str], int]:
    """Argument type: a whole number with a lower limit."""

    def whole_number(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"expected at least {low}, got {text}")
        return int(text)

    return whole_number


@dataclass(frozen=True)
class ServerCommand:
    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    port: int
    folder: Path | None = None

    def exporting(self, **variables: str) -> "ServerCommand":
        """The same service on another port, with additional variables."""
        port = free_port()
        variables["KILN_PORT"] = str(port)
        return replace(self, environment={**self.environment, **variables}, port=port)


def service(
    model: Path, workers: int, name: str = "the service", **variables: str
) -> ServerCommand:
    """Kiln's own server of a model, on a free port; `variables` are additional settings."""
    port = free_port()
    environment = python_environment() | variables
    environment["KILN_MODEL"] = str(model.absolute())
    environment |= {"KILN_PORT": str(port), "KILN_WORKERS": str(workers)}
    command = [sys.executable, "-m", "serve.server.server"]
    return ServerCommand(name, command, environment, port)


@dataclass(frozen=True)
class Running:
    port: int
    process: int
    cold_start_s: float  # from exec to the first response
    errors: IO[bytes]  # its stderr

    def cpu_s(self) -> float:
        """CPU time of its processes."""
        return sum(int(stat[11]) + int(stat[12]) for stat in family(self.process).values()) / _TICKS

    def memory_mb(self) -> float:
        """Proportional set size of its processes: shared memory counts once."""
        return sum(_pss(pid) for pid in family(self.process)) / 1e6

    def said(self) -> str:
        """Its stderr so far."""
        return _text(self.errors)


@contextmanager
def running(server: ServerCommand, path: str, body: str | None) -> Iterator[Running]:
    """Starts the server and waits for its first response to `body`; None sends a GET.

    Raises:
        ServerFailed: it exited, or did not respond in time.
    """
    with tempfile.TemporaryFile() as errors:  # not a pipe, which would fill up and block the server
        start = time.perf_counter()
        process = subprocess.Popen(
            server.command,
            env=dict(server.environment),
            cwd=server.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            while not _answers(server.port, path, body):
                if process.poll() is not None or time.perf_counter() - start > _START_S:
                    raise ServerFailed(f"{server.name} did not start:\n{_text(errors)[-2000:]}")
                time.sleep(0.01)
            yield Running(server.port, process.pid, time.perf_counter() - start, errors)
        finally:
            _end(process)


def ask(port: int, path: str, body: str | None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        body.encode() if body is not None else None,
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 # our own
        return json.load(response)


def load(job: Job) -> Load:
    """Measures from a separate process, as callers are."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load.client"],
        input=json.dumps(asdict(job)),
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServerFailed(f"the load generator failed:\n{done.stderr[-2000:]}")
    return Load(**json.loads(done.stdout))


def family(process: int) -> dict[int, list[str]]:
    """A process and its descendants, with the fields of /proc/PID/stat after the name."""
    stats: dict[int, list[str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                stats[int(folder.name)] = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    members, found = {process}, {process}
    while found:
        found = {pid for pid, stat in stats.items() if int(stat[1]) in members} - members
        members |= found
    return {pid: stats[pid] for pid in members & set(stats)}


def _started(pid: int) -> str | None:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[_STARTED]
    return None


def _answers(port: int, path: str, body: str | None) -> bool:
    try:
        ask(port, path, body)
    except (urllib.error.URLError, OSError):
        return False
    return True


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kills the process and its descendants: some servers leave children behind."""
    members = family(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    for pid, stat in members.items():
        if _started(pid) == stat[_STARTED]:  # the number was not reused by another process
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _text(errors: IO[bytes]) -> str:
    size = os.fstat(errors.fileno()).st_size  # the server shares the file position
    return os.pread(errors.fileno(), size, 0).decode(errors="replace")


FLOOR = "no service"


def floor(model: Path, workers: int) -> ServerCommand:
    """The least that a service does, see `benchmarks/load/floor.py`."""
    port = free_port()
    environment = python_environment() | {"FLOOR_MODEL": str(model.absolute())}
    environment |= {"FLOOR_PORT": str(port), "FLOOR_WORKERS": str(workers)}
    return ServerCommand(FLOOR, [sys.executable, "-m", "benchmarks.load.floor"], environment, port)


_FOLDER = Path(__file__).with_name("peers")
_REQUIREMENTS = _FOLDER / "requirements.txt"


class PeersMissing(Exception):
    """Their packages could not be installed; the message says why."""


def peers(model: Path, workers: int) -> list[ServerCommand]:
    """FastAPI, LitServe and BentoML around the same ONNX file, with as many processes.

    Raises:
        PeersMissing: there is no network, or no uv.
    """
    packages = installed(_REQUIREMENTS, "peers")
    servers = []
    for name, command in _commands(workers).items():
        port = free_port()
        environment = {
            "PATH": f"{packages / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(packages),  # BentoML and LitServe write there
            "PYTHONPATH": f"{packages}:{_FOLDER}",
            "PEER_MODEL": str(model.absolute()),
            "PEER_PORT": str(port),
            "PEER_WORKERS": str(workers),
            "BENTOML_DO_NOT_TRACK": "True",
        }
        arguments = [word.replace("PORT", str(port)) for word in command]
        command_line = [sys.executable, "-s", "-m", *arguments]
        servers.append(ServerCommand(name, command_line, environment, port, _FOLDER))
    return servers


def _commands(workers: int) -> dict[str, list[str]]:
    uvicorn = ["uvicorn", "fastapi_app:app", "--no-access-log", "--log-level", "error"]
    return {
        "FastAPI": [*uvicorn, "--port", "PORT", "--workers", str(workers)],
        "LitServe": ["litserve_app"],
        "BentoML": ["bentoml", "serve", "bentoml_app:Classifier", "--port", "PORT"],
    }


def installed(requirements: Path, name: str, *options: str) -> Path:
    """The folder of the peers' packages, installed once for each list.

    Raises:
        PeersMissing: there is no network, or no uv.
    """
    cache = Path(os.environ.get("KILN_CACHE") or Path.home() / ".cache" / "kiln")
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache / name / digest
    if (folder / ".complete").exists():
        return folder
    sys.stderr.write(f"kiln: installing the packages of the {name}\n")
    command = [str(wheel_program("uv")), "pip", "install", "--quiet", "--python", sys.executable]
    done = subprocess.run(
        [*command, *options, "--target", str(folder), "--requirements", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PeersMissing(f"the {name} could not be installed:\n{done.stderr.strip()}")
    (folder / ".complete").touch()
    return folder
