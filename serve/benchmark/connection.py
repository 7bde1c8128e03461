"""One HTTP/1.1 connection of a cheap client: a request goes out, the whole answer comes back."""

import asyncio
from collections.abc import Callable
from typing import Any


class Connection(asyncio.Protocol):
    """Sends what it is given; where an answer ends, its content-length says."""

    def __init__(
        self,
        on_answer: "Callable[[Connection, int, bytes], None]",
        on_lost: "Callable[[Connection], None]",
    ) -> None:
        """
        Args:
            on_answer: gets the status and the body.
            on_lost: the connection ended, by whomever.
        """
        self._on_answer, self._on_lost = on_answer, on_lost
        self._received, self._body, self._end = bytearray(), 0, 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes) -> None:
        """Asks; one request at a time."""
        self._transport.write(request)

    def close(self) -> None:
        """After this nothing is told but the end."""
        self._transport.close()

    def abort(self) -> None:
        """As a caller that is gone: what was not sent yet is dropped."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._end:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            length = head.index(b"content-length:") + 15
            self._body = end + 4
            self._end = self._body + int(head[length:].split(b"\r\n", 1)[0])
        if len(self._received) >= self._end:
            status, body = int(self._received[9:12]), bytes(self._received[self._body : self._end])
            self._received.clear()
            self._end = 0
            self._on_answer(self, status, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self)
