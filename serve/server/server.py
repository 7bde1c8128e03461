"""The HTTP server: one process per CPU, each with its own warm session.

The parent only starts and replaces them; it loads neither onnxruntime nor the application.
"""

import ctypes
import errno
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.supervisors import multiprocess

from common.model.artifact import ArtifactError
from serve.inference.model_path import model_path, read_model
from serve.server.connections import TimedProtocol, own_counts, share_counts
from serve.server.workers import Worker
from serve.settings import Settings, SettingsError
from serve.telemetry.logs import log_to_stderr
from serve.telemetry.settings import ExportSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette

_SHUTDOWN_S = 20  # for the answers that are under way
# uvicorn replaces processes that say nothing for 5 s: on a machine too busy to start one in that
# time it never got to serve. One that dies is noticed at once, see `Worker`.
_SILENT_S = 60
_PR_SET_PDEATHSIG = 1  # prctl(2)

logger = logging.getLogger(__name__)


def application() -> "Starlette":
    """What each process serves."""
    from serve.drift.watch import watch_traffic
    from serve.http.app import create_app
    from serve.inference.predictor import Predictor
    from serve.telemetry.telemetry import Telemetry

    _end_with_the_parent()
    settings = Settings.from_environment()
    log_to_stderr(settings)
    predictor = Predictor.load(model_path(settings), settings.session_threads)
    telemetry = Telemetry.start(settings, predictor.metadata)
    watch_traffic(telemetry, settings, predictor.metadata)
    app = create_app(predictor, settings, observer=telemetry.observer, at_end=telemetry.close)
    TimedProtocol.head_timeout_s = settings.head_timeout_ms / 1e3
    TimedProtocol.counts = own_counts()
    gc.freeze()  # what is loaded stays: the collector need not look at it amid answers
    return app


def main() -> int:
    """Serves until SIGTERM or Ctrl-C, then answers what has arrived and ends."""
    try:
        settings = Settings.from_environment()
        ExportSettings.from_environment()  # each process makes its own of them: wrong ones end here
        metadata = read_model(model_path(settings))
        _require_free(settings.host, settings.port)
    except (SettingsError, ArtifactError) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    log_to_stderr(settings)
    facts = {
        "url": f"http://{settings.host}:{settings.port}/",
        "model": metadata.name,
        "model_version": metadata.version[:12],
        "processes": settings.processes,
        "session_threads": settings.session_threads,
    }
    logger.info("serving, API at /docs", extra=facts)
    # A lone process hands the signal on when it is done, and would seem to have been killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if settings.processes > 1:
        share_counts(settings.processes)
    multiprocess.Process = Worker  # type: ignore[misc]  # uvicorn has no option for it
    uvicorn.run(
        "serve.server.server:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.processes,
        loop="serve.server.connections:EvenLoop",
        http=TimedProtocol,
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        timeout_worker_healthcheck=_SILENT_S,
    )
    return 0


def _end_with_the_parent() -> None:
    """Or processes whose parent was killed would serve on, and keep the port from its successor."""
    parent = multiprocessing.parent_process()
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent.pid:  # it died before this was asked for
            sys.exit(1)


def _require_free(host: str, port: int) -> None:
    """Finds out before processes are started, each of which would fail in its own words."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} of {host} is taken by another program; "
                f"choose another one: KILN_PORT={port + 1 if port < 65535 else 8000}"
            ) from exc
        raise SettingsError(
            f"cannot listen at {host}, port {port}: {exc.strerror}; "
            "expected an address of this machine in KILN_HOST and a free port in KILN_PORT"
        ) from exc


if __name__ == "__main__":
    sys.exit(main())
