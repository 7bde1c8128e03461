"""A server under attack: bytes as they are sent, answers as they come, and all that it logs."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.waiting import PATIENCE_S, wait_until
from tests.serve.server_process import Server, running
from tests.serve.serving import base64_of, image_file, pixels

IMAGE = base64_of(image_file(pixels()))
GOOD = ('{"image": "' + IMAGE + '"}').encode()
_LAST_ID = "1a57" * 8
_LAST = (
    b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    b"traceparent: 00-" + _LAST_ID.encode() + b"-1111111111111111-00\r\n\r\n"
)
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Response:
    """A response; header names are in lower case, and each came once."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    head: bytes  # as it came

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document that it is."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        assert problem["request_id"] == self.headers["x-request-id"]
        return problem


class Target:
    """The server, and its log from the beginning."""

    def __init__(self, server: Server) -> None:
        self.server, self.port = server, server.port
        self._right = ""  # label of GOOD
        self._log = bytearray()
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()

    def _read_log(self) -> None:
        assert self.server.process.stderr is not None
        file = self.server.process.stderr.fileno()
        while part := os.read(file, _CHUNK):
            self._log += part

    def stop(self) -> None:
        """Ends the server, so that its log is whole."""
        self.server.process.terminate()
        self._reader.join(PATIENCE_S)

    @property
    def log(self) -> str:
        """What was written to standard error so far."""
        return self._log.decode()

    def lines(self) -> list[dict[str, Any]]:
        """The log's records.

        Raises:
            ValueError: a line is no JSON.
        """
        # At "\n" alone: whoever reads the log may know other ends of lines, so none may be there.
        whole = self.log[: self.log.rindex("\n") + 1]
        assert len(whole.splitlines()) == whole.count("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def logged(self, request_id: str) -> dict[str, Any]:
        """The line about one request, when it is there."""
        wait_until(lambda: request_id in self.log[: self.log.rfind("\n") + 1], "a line in the log")
        [line] = [line for line in self.lines() if line.get("request_id") == request_id]
        return line

    @property
    def resident_mb(self) -> float:
        """Memory that the process holds."""
        held = int(Path(f"/proc/{self.server.process.pid}/statm").read_text().split()[1])
        return held * os.sysconf("SC_PAGE_SIZE") / 1e6

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def answers(self, *sent: bytes) -> tuple[list[Response], bool]:
        """What it says to these bytes, and whether it then ended the connection.

        Each part is sent when the server, which has one process here, has read what came before.

        If it did not, a last request is sent on the same connection, which has to be answered as
        on any other: the two of them agree on where each request ended.
        """
        with self.connect() as caller:
            *parts, last = sent
            for part in parts:
                caller.sendall(part)
                self.ask("GET", "/health")
            said = _until_answered(caller, last)
            try:
                caller.sendall(_LAST)
                said += _rest(caller)
            except OSError:  # it ended the connection before it had read everything
                pass
        found = [answer for answer in parsed(said) if answer.status != 100]
        if found and found[-1].headers.get("x-request-id") == _LAST_ID:
            assert found[-1].status == 200
            return found[:-1], False
        return found, True

    def ask(self, method: str, path: str, body: bytes = b"", *headers: bytes) -> Response:
        """The one answer to a request that ends where it says."""
        head = f"{method} {path} HTTP/1.1\r\n".encode("latin-1")
        return self.raw(head, body, *headers)

    def raw(self, request_line: bytes, body: bytes = b"", *headers: bytes) -> Response:
        """The same, of a request line with its end."""
        length = [b"Content-Length: %d" % len(body)] if body else []
        fields = [b"Host: x", b"Connection: close", *headers, *length]
        with self.connect() as caller:
            caller.sendall(request_line + b"\r\n".join(fields) + b"\r\n\r\n" + body)
            [answer] = parsed(_rest(caller))
        return answer

    def assert_well(self) -> None:
        """The same process still answers, and as it did when it was first asked."""
        assert self.server.process.poll() is None
        answer = self.ask("POST", "/predict", GOOD, b"Content-Type: application/json")
        assert answer.status == 200, answer
        label = json.loads(answer.body)["label"]
        self._right = self._right or label
        assert label == self._right


@contextmanager
def target(**variables: str) -> Iterator[Target]:
    """A server whose callers have little time; every request is logged."""
    defaults = {
        "KILN_ACCESS_LOG": "all",
        "KILN_LOG_FORMAT": "json",
        "KILN_HEAD_TIMEOUT_MS": "1000",
        "KILN_BODY_TIMEOUT_MS": "500",
        "KILN_DRIFT_RATE": "0",
    }
    with running(1, **(defaults | variables)) as server:
        aim = Target(server)
        try:
            if "KILN_API_KEYS" not in variables:
                aim.assert_well()
            yield aim
        finally:
            aim.stop()


def parsed(said: bytes) -> Iterator[Response]:
    """The answers in what a server said.

    Raises:
        AssertionError: it is something else, or an answer names a header twice.
    """
    while said:
        head, end, rest = said.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert status, said[:200]
        assert end, said[:200]
        fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        headers = {n.decode().lower(): v.strip().decode("latin-1") for n, _, v in fields}
        assert len(headers) == len(fields), head
        length = 0 if status[1] == b"100" else int(headers["content-length"])
        assert len(rest) >= length, "an answer is cut short"
        yield Response(int(status[1]), headers, rest[:length], head)
        said = rest[length:]


def _until_answered(caller: socket.socket, sent: bytes) -> bytes:
    """Until there is a whole answer, or the connection ended."""
    said = b""
    try:
        caller.sendall(sent)
        while not _is_whole(said) and (part := caller.recv(_CHUNK)):
            said += part
    except OSError:  # reset: it had enough
        pass
    return said


def _is_whole(said: bytes) -> bool:
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", said)
    _, end, rest = said.partition(b"\r\n\r\n")
    return bool(end and length and len(rest) >= int(length[1]))


def _rest(caller: socket.socket) -> bytes:
    said = b""
    while part := caller.recv(_CHUNK):
        said += part
    return said
