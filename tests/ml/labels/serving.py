"""The labelling page's server in a thread of the test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from ml.labels.label import new_token


@contextmanager
def serving(app: Callable[[str, int], Starlette]) -> Iterator[str]:
    """The address of the page."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, token = listener.getsockname()[1], new_token()
        config = uvicorn.Config(app(token, port), log_level="error", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{port}/{token}/"
        finally:
            server.should_exit = True
            thread.join()
