"""The HTTP server: one process per CPU, each with its own warm session.

The parent only supervises them; it imports neither onnxruntime nor the application.
"""

import argparse
import ctypes
import errno
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.supervisors import multiprocess

from common.model.artifact import ArtifactError
from serve.inference.model_path import fastest, model_path, precision_of, read_model
from serve.server.connections import own_counts, share_counts
from serve.server.protocol import TimedProtocol
from serve.server.workers import MISTAKE, SILENT_S, Server, Supervisor, Worker
from serve.settings import Settings, SettingsError
from serve.telemetry.export import ExportSettings
from serve.telemetry.logs import log_to_stderr

if TYPE_CHECKING:
    from starlette.applications import Starlette

_SHUTDOWN_S = 20  # for responses in progress
_PR_SET_PDEATHSIG = 1  # prctl(2)

logger = logging.getLogger(__name__)


def application() -> "Starlette":
    """The application that each process serves."""
    from serve.capture.watch import CLOSE_S, capture_answers
    from serve.drift.monitor import watch_traffic
    from serve.http.app import create_app
    from serve.inference.predictor import Predictor
    from serve.telemetry.telemetry import Telemetry

    _end_with_the_parent()
    settings = Settings.from_environment()
    log_to_stderr(settings)
    path = model_path(settings)
    predictor = Predictor.load(path, settings.session_threads, settings.model_key)
    telemetry = Telemetry.start(settings, predictor.metadata)
    watch_traffic(telemetry, settings, predictor.metadata)
    capturing = capture_answers(telemetry, settings, predictor.metadata)

    def end() -> None:
        if capturing is not None:
            capturing.recorder.close(CLOSE_S)
        telemetry.close()  # writes the remaining captures

    app = create_app(
        predictor,
        settings,
        observer=telemetry.observer,
        at_end=end,
        answers=capturing and capturing.answers,
    )
    TimedProtocol.head_timeout_s = settings.head_timeout_ms / 1e3
    TimedProtocol.counts = own_counts()
    gc.freeze()  # exempts loaded objects from garbage collection during requests
    return app


# Help of each option, by the variable that it overrides.
_OPTIONS = {
    "model": "model.onnx to serve, or its folder (default: the built-in model)",
    "precision": "fp32 or int8, if the folder has both (default: the faster on this machine)",
    "host": "address to listen on (default: 127.0.0.1, reachable from this machine only)",
    "port": "port to listen on (default: 8000); 0 picks a free one",
    "workers": "processes, each with its own session (default: one per CPU)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or Ctrl-C, then drains and exits."""
    given = {k: v for k, v in vars(_parser().parse_args(arguments)).items() if v is not None}
    os.environ.update({_variable(name): value for name, value in given.items()})
    try:
        settings = Settings.from_environment()
        # Each process parses them again: errors are reported here.
        ExportSettings.from_environment()
        path = model_path(settings, partial(_fastest, settings))
        metadata = read_model(path, settings.model_key)
        os.environ["KILN_MODEL"] = str(path)  # inherited by all processes, also replacements
        listener = _listener(settings.host, settings.port)
    except (SettingsError, ArtifactError) as exc:
        return _mistake(exc, given)
    log_to_stderr(settings)
    facts = {
        "url": f"http://{settings.host}:{listener.getsockname()[1]}/",
        "model": metadata.name,
        "model_version": metadata.version[:12],
        "precision": precision_of(metadata),
        "processes": settings.processes,
        "session_threads": settings.session_threads,
    }
    logger.info("serving, API at /docs", extra=facts)
    # With a single process, its exit by the signal would look like a crash.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = _config(settings)
    if settings.processes > 1:
        share_counts(settings.processes)
        multiprocess.Process = Worker  # type: ignore[misc]  # uvicorn has no option for it
        return Supervisor(config, listener, metadata.version).run()
    try:
        Server(config).run([listener])
    except KeyboardInterrupt:
        pass
    except (SettingsError, ArtifactError) as exc:
        return _mistake(exc, given)
    return 0


def _fastest(settings: Settings, paths: Sequence[Path], threads: int) -> Path:
    """Measures in a separate process, since this one must not import onnxruntime."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, log_to_stderr, (settings,)) as process:
        return process.submit(fastest, paths, threads).result()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bazel run //serve:api --",
        description="The HTTP service: POST /predict, /docs and a page to try it at /.",
        epilog="Each option overrides a variable, such as KILN_PORT for --port. "
        "serve/settings.py lists all variables.",
        allow_abbrev=False,
    )
    for name, said in _OPTIONS.items():
        parser.add_argument(f"--{name}", help=said, metavar=name.upper())
    return parser


def _variable(option: str) -> str:
    return f"KILN_{option.upper()}"


def _mistake(exc: Exception, given: dict[str, str]) -> int:
    """The error in one line, by the option's name if it came from one."""
    said = str(exc)
    for option in given:
        said = said.replace(_variable(option), f"--{option}")
    sys.stderr.write(f"kiln: error: {said}\n")
    return MISTAKE


def _config(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        "serve.server.server:application",
        factory=True,
        workers=settings.processes,
        loop="serve.server.connections:EvenLoop",
        http=TimedProtocol,
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        timeout_worker_healthcheck=SILENT_S,
    )


def _end_with_the_parent() -> None:
    """Terminates workers with their parent; otherwise they would serve on and block the port."""
    parent = multiprocessing.parent_process()
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent.pid:  # the parent died before the call
            sys.exit(1)


def _listener(host: str, port: int) -> socket.socket:
    """The socket that all processes accept from; it starts listening when they serve."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} of {host} is taken by another program; "
                f"choose another one: KILN_PORT={port + 1 if port < 65535 else 8000}"
            ) from exc
        raise SettingsError(
            f"cannot listen at {host}, port {port}: {exc.strerror}; "
            "expected an address of this machine in KILN_HOST and a free port in KILN_PORT"
        ) from exc
    return listener


if __name__ == "__main__":
    sys.exit(main())
