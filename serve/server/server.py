"""The HTTP server: one process per CPU, each with its own warm session.

The parent only starts and replaces them; it loads neither onnxruntime nor the application.
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
from serve.telemetry.logs import log_to_stderr
from serve.telemetry.settings import ExportSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette

_SHUTDOWN_S = 20  # for the answers that are under way
_PR_SET_PDEATHSIG = 1  # prctl(2)

logger = logging.getLogger(__name__)


def application() -> "Starlette":
    """What each process serves."""
    from serve.capture.watch import CLOSE_S, capture_answers
    from serve.drift.watch import watch_traffic
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
        telemetry.close()  # tells what was kept

    app = create_app(
        predictor,
        settings,
        observer=telemetry.observer,
        at_end=end,
        answers=capturing and capturing.answers,
    )
    TimedProtocol.head_timeout_s = settings.head_timeout_ms / 1e3
    TimedProtocol.counts = own_counts()
    gc.freeze()  # what is loaded stays: the collector need not look at it amid answers
    return app


# What each option says, by the variable whose place it takes.
_OPTIONS = {
    "model": "path of the model.onnx to serve, or of its folder; without it what was built in",
    "precision": "fp32 or int8, where the folder has both; by itself the faster on this machine",
    "host": "address to listen at; 127.0.0.1 by itself, which this machine alone can reach",
    "port": "port to listen at, 8000 by itself; 0 takes a free one",
    "workers": "processes, each with its own session; by itself one for each CPU",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or Ctrl-C, then answers what has arrived and ends."""
    given = {k: v for k, v in vars(_parser().parse_args(arguments)).items() if v is not None}
    os.environ.update({_variable(name): value for name, value in given.items()})
    try:
        settings = Settings.from_environment()
        ExportSettings.from_environment()  # each process makes its own of them: wrong ones end here
        path = model_path(settings, partial(_fastest, settings))
        metadata = read_model(path, settings.model_key)
        os.environ["KILN_MODEL"] = str(path)  # the same for all processes, those to come too
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
    # A lone process hands the signal on when it is done, and would seem to have been killed.
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
    """In a process of its own: this one does not load onnxruntime."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, log_to_stderr, (settings,)) as process:
        return process.submit(fastest, paths, threads).result()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="api",
        description="The HTTP service: POST /predict, /docs and a page to try it at /.",
        epilog="Each option takes the place of a variable, KILN_PORT for --port. "
        "serve/settings.py lists the variables, those without an option too.",
        allow_abbrev=False,
    )
    for name, said in _OPTIONS.items():
        parser.add_argument(f"--{name}", help=said, metavar=name.upper())
    return parser


def _variable(option: str) -> str:
    return f"KILN_{option.upper()}"


def _mistake(exc: Exception, given: dict[str, str]) -> int:
    """Says what is wrong in a line, of an option by the option's name."""
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
    """Or processes whose parent was killed would serve on, and keep the port from its successor."""
    parent = multiprocessing.parent_process()
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent.pid:  # it died before this was asked for
            sys.exit(1)


def _listener(host: str, port: int) -> socket.socket:
    """The socket that all processes take connections from; they let it listen when they serve."""
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
