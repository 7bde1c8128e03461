"""Process lifecycle on Lambda: SIGTERM 300 ms before the kill, and SnapStart.

On Managed Instances an environment serves AWS_LAMBDA_MAX_CONCURRENCY requests at once: the runtime
client forks as many processes, each of which imports the handler and polls for events. A fork
inherits no threads, so each process waits for the signal by itself.

Separate from the handler, whose import of numpy starts threads: the signal must be blocked before
that.

A snapshot keeps everything warm; each restored copy must renew what may not be shared. Request ids
come from the kernel, which AWS reseeds. AWS credentials, needed only for capture to a bucket, are
read again, and clocks only measure differences within one request or one environment.
"""

import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

# A PNG of one grey pixel: small, and exercises every step that a photo does.
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
)


def block_sigterm() -> None:
    """Blocks SIGTERM; call it before other threads start, since they inherit the mask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def at_sigterm(last: Callable[[], object]) -> None:
    """Starts a thread that waits for SIGTERM, calls `last`, and then lets the signal end the
    process.
    """

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        try:
            last()
        finally:
            # Sent to this thread, the only one that does not block it; there is no handler.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


def load_for_clients() -> None:
    """Imports what the forked clients share, once, in their parent.

    The model is left out: clients report its errors, and sessions must not be shared across forks.
    """
    import serve.aws_lambda.invocation
    import serve.http.app
    import serve.inference.predictor  # inherited by the forks
    from serve.settings import SettingsError
    from serve.telemetry.export import ExportSettings

    with suppress(SettingsError):
        if ExportSettings.from_environment().signals:
            import serve.telemetry.providers  # noqa: F401  # 0.3 s for each of them
    gc.freeze()  # keeps the pages shared: garbage collection does not write to frozen objects


_CLIENTS_S = 0.28  # in all, since each client has 0.25 s


def end_clients() -> None:
    """Forwards SIGTERM to the clients, and waits while they flush."""
    clients = multiprocessing.active_children()
    for client in clients:
        client.terminate()
    end = time.monotonic() + _CLIENTS_S
    for client in clients:
        client.join(max(0.0, end - time.monotonic()))


def register_snapshot_hooks() -> None:
    """Registers the SnapStart hooks. Call it before importing the handler: hooks run in order."""
    from snapshot_restore_py import register_after_restore, register_before_snapshot

    register_before_snapshot(warm)
    register_after_restore(renew)


def warm() -> None:
    """One prediction through the handler itself, so that everything is imported and allocated.

    Raises:
        RuntimeError: it failed; Lambda then takes no snapshot and reports the reason.
    """
    from serve.aws_lambda.handler import adapter  # without the flush: not a caller's request

    answer = adapter(one_pixel_event(), SimpleNamespace(aws_request_id="snapshot"))
    if answer["statusCode"] != 200:
        raise RuntimeError(f"the model failed to answer: {answer['body']}")


_SEED_BYTES = 48


def renew() -> None:
    """Copies of a snapshot would draw the same random numbers and appear to a collector as one
    instance.

    Measurements of the warm-up are dropped with the original's connections.
    """
    from serve.aws_lambda.handler import handler, telemetry

    random.seed()
    if shared := sys.modules.get("numpy.random"):
        shared.seed()
    if ssl := sys.modules.get("ssl"):  # OpenSSL reseeds after a fork, but not after a snapshot
        ssl.RAND_add(os.urandom(_SEED_BYTES), float(_SEED_BYTES))
    telemetry.renew()
    handler.reset()


def one_pixel_event() -> dict[str, Any]:
    """A prediction in the form of the release manager's direct invocations, which need no API
    key.
    """
    from serve.http.middleware import RELEASE_MANAGER

    http = {"method": "POST", "path": "/predict", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/predict",
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "localhost"},
        "requestContext": {"http": http, "stage": "$default", "domainName": RELEASE_MANAGER},
        "body": f'{{"image":"{_PIXEL}"}}',
        "isBase64Encoded": False,
    }
