"""The life of a process on Lambda: SIGTERM some 300 ms before it is killed, and SnapStart.

On Managed Instances an environment takes AWS_LAMBDA_MAX_CONCURRENCY calls at once: the runtime
client forks as many processes, each of which imports the handler and asks for events. A fork has
none of the threads of its parent, so that each waits for the signal by itself.

Apart from what the handler imports: numpy starts threads, and the signal has to be blocked before.

A snapshot keeps what is warm, and each restored copy must renew the rest. Request ids come from
the kernel, which AWS reseeds. Credentials of AWS, which only capture to a bucket needs, are read
anew, and the clocks only measure differences within one request or one environment.
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

# PNG of one grey pixel: small, and it takes every step that a photo takes.
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
)


def block_sigterm() -> None:
    """Before other threads are started, which inherit it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def at_sigterm(last: Callable[[], object]) -> None:
    """Has a thread wait for the signal, call `last`, and then end the process by the signal."""

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        try:
            last()
        finally:
            # Sent to this thread, the only one that takes it; nobody has set a handler.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


def load_for_clients() -> None:
    """Imports what the clients share, once, in the process that they are forked from.

    Not the model: its errors are for the clients to report, and sessions are no shared state.
    """
    import serve.aws_lambda.invocation
    import serve.http.app
    import serve.inference.predictor  # for those who are forked
    from serve.settings import SettingsError
    from serve.telemetry.settings import ExportSettings

    with suppress(SettingsError):
        if ExportSettings.from_environment().signals:
            import serve.telemetry.providers  # noqa: F401  # 0.3 s for each of them
    gc.freeze()  # pages that the collector does not write to stay shared


_CLIENTS_S = 0.28  # for all of them, which have 0.25 s each


def end_clients() -> None:
    """Hands the signal on to the clients, and waits for them to send what is left."""
    clients = multiprocessing.active_children()
    for client in clients:
        client.terminate()
    end = time.monotonic() + _CLIENTS_S
    for client in clients:
        client.join(max(0.0, end - time.monotonic()))


def register_snapshot_hooks() -> None:
    """Registers the hooks; before the handler is imported, since they run in this order."""
    from snapshot_restore_py import register_after_restore, register_before_snapshot

    register_before_snapshot(warm)
    register_after_restore(renew)


def warm() -> None:
    """One prediction by the handler itself, so that nothing is left to import or to allocate.

    Raises:
        RuntimeError: it did not succeed; Lambda then takes no snapshot and says why.
    """
    from serve.aws_lambda.handler import adapter  # without the flush: this is nobody's request

    answer = adapter(one_pixel_event(), SimpleNamespace(aws_request_id="snapshot"))
    if answer["statusCode"] != 200:
        raise RuntimeError(f"the model does not answer: {answer['body']}")


_SEED_BYTES = 48


def renew() -> None:
    """Copies of one snapshot would draw the same numbers and be one instance to a collector.

    What the warm-up was measured at is forgotten with the original's connections.
    """
    from serve.aws_lambda.handler import handler, telemetry

    random.seed()
    if shared := sys.modules.get("numpy.random"):
        shared.seed()
    if ssl := sys.modules.get("ssl"):  # OpenSSL notices a fork, and no snapshot
        ssl.RAND_add(os.urandom(_SEED_BYTES), float(_SEED_BYTES))
    telemetry.renew()
    handler.reset()


def one_pixel_event() -> dict[str, Any]:
    """A prediction as the release manager would ask for it, whom no API key is asked of."""
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
