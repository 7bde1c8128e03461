"""Callers who are slow, idle or gone: others are answered, and nothing is kept of them."""

import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.waiting import PATIENCE_S, wait_until
from tests.serve.server_process import Server, running
from tests.serve.serving import base64_of, image_file, pixels

BODY = ('{"image": "' + base64_of(image_file(pixels())) + '"}').encode()
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
IDLE = 200  # connections


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(
        KILN_BODY_TIMEOUT_MS="300",
        KILN_HEAD_TIMEOUT_MS="500",
        KILN_LOG_LEVEL="warning",
        KILN_DRIFT_RATE="0",
    ) as up:
        yield up
        up.process.terminate()
        _, said = up.process.communicate(timeout=PATIENCE_S)
        assert said == "", "a caller's manners are no reason to write to the log"


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def is_well(server: Server) -> bool:
    return server.ask("POST", "/predict", BODY.decode())[0] == 200


def open_files(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def resident_mb(server: Server) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def reset(caller: socket.socket) -> None:
    """Ends the connection as a caller who is gone: by RST and not by FIN."""
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()


def sent_until_it_ends(caller: socket.socket, data: bytes) -> bytes:
    """Sends a byte at a time, again and again; what the server said when it had enough."""
    caller.settimeout(0.02)
    said = b""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for byte in data:
            try:
                caller.sendall(bytes([byte]))
                part = caller.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                return said
            if not part:
                return said
            said += part
    raise AssertionError("the server waits for ever")


def test_a_head_that_comes_a_byte_at_a_time_is_cut_off(server: Server) -> None:
    with connect(server) as slow:
        slow.sendall(HEAD)
        assert sent_until_it_ends(slow, b"X-More: 1\r\n") == b""
    assert is_well(server)


def test_a_body_that_comes_a_byte_at_a_time_is_refused(server: Server) -> None:
    with connect(server) as slow:
        slow.sendall(HEAD + LENGTH)
        assert sent_until_it_ends(slow, b" " * 30).startswith(b"HTTP/1.1 408")
    assert is_well(server)


def test_hundreds_of_idle_connections_disturb_nobody_and_are_ended(server: Server) -> None:
    assert is_well(server)
    before = open_files(server)
    idle = [connect(server) for _ in range(IDLE)]
    for number, caller in enumerate(idle):
        caller.sendall((b"", HEAD, HEAD + LENGTH, HEAD + LENGTH + BODY[:20])[number % 4])
    assert all(is_well(server) for _ in range(20))
    wait_until(lambda: open_files(server) <= before)
    for caller in idle:
        caller.close()
    assert is_well(server)


@pytest.mark.parametrize(
    "sent",
    [b"", HEAD[:9], HEAD, HEAD + LENGTH, HEAD + LENGTH + BODY[:99], HEAD + LENGTH + BODY],
    ids=["at once", "in the line", "in the head", "before the body", "in the body", "unread"],
)
def test_callers_who_are_gone_leave_nothing_behind(server: Server, sent: bytes) -> None:
    for _ in range(20):  # thread stacks and buffers come up once
        reset_after(server, sent)
    assert is_well(server)
    files, memory = open_files(server), resident_mb(server)
    for _ in range(100):
        reset_after(server, sent)
    assert is_well(server)
    wait_until(lambda: open_files(server) <= files)
    assert resident_mb(server) - memory < 8


def reset_after(server: Server, sent: bytes) -> None:
    caller = connect(server)
    caller.sendall(sent)
    reset(caller)
