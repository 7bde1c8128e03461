"""uvicorn's HTTP protocol, with a limit on how long the head of a request may take.

uvicorn ends connections that are idle between requests; one that sends its headers a byte at a
time, or none at all, would stay for ever, and so would one that goes on with a body which was
refused. Bodies are timed by serve/bodies.py. Connections are counted for serve/accepting.py.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.accepting import Tally


class ImpatientProtocol(HttpToolsProtocol):
    """Closes connections whose first byte or whose headers do not come."""

    head_timeout_s = 10.0
    tally: Tally | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()
        if self.tally is not None:
            self.tally.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.tally is not None:
            self.tally.closed()
        self._head_is_here()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_is_here()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        if self.cycle is not None and self.cycle.more_body:  # answered before the body was here
            self._expect_head()
        super().on_response_complete()

    def _expect_head(self) -> None:
        self._head_is_here()
        self._timer = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _head_is_here(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        transport: Any = self.transport
        if not transport.is_closing():
            transport.close()
