"""The end of the service: every connection that was accepted is answered, or it was never made."""

import http.client
import signal
import threading

import pytest

from tests.helpers.waiting import PATIENCE_S, wait_until
from tests.serve.server_process import Server, running
from tests.serve.serving import base64_of, image_file, pixels

BODY = ('{"image": "' + base64_of(image_file(pixels())) + '"}').encode()
HEADERS = {"content-type": "application/json"}
CALLERS = 24


class Load:
    """Callers who ask again and again, and what became of their requests."""

    def __init__(self, server: Server, *, keeps_connections: bool) -> None:
        self._server, self._keeps = server, keeps_connections
        self.answered, self.lost = 0, list[str]()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.answered > 2 * CALLERS)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _call(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._is_over.is_set():
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
                try:
                    connection.connect()
                except OSError:  # refused: nothing was accepted
                    connection = None
                    continue
            connection = self._ask(connection)
        if connection is not None:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection | None:
        try:
            connection.request("POST", "/predict", BODY, HEADERS)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as exc:
            self.lost.append(repr(exc))
            return None
        self.answered += answer.status == 200
        if self._keeps and not answer.will_close:
            return connection
        connection.close()
        return None


@pytest.mark.parametrize("keeps_connections", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_is_lost_when_the_service_ends(workers: int, keeps_connections: bool) -> None:
    with running(workers, KILN_ACCESS_LOG="off") as server:
        with Load(server, keeps_connections=keeps_connections) as load:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE_S) == 0
        assert load.lost == []


def test_no_request_is_lost_while_processes_are_replaced_one_by_one() -> None:
    with running(2, KILN_ACCESS_LOG="off") as server:
        wait_until(lambda: len(server.workers()) == 2)
        before = set(server.workers())
        with Load(server, keeps_connections=False) as load:
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: len(server.workers()) == 2 and not before & set(server.workers()))
        assert load.lost == []
