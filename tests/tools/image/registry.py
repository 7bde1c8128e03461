"""A real registry on this machine, and what went over the line to it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from common.programs import require_program
from infra.twin.image import container


@dataclass
class Registry(container.Registry):
    """``address`` leads through a counter of what clients send."""

    _counter: _Counter

    @property
    def bytes_received(self) -> int:
        return self._counter.sent


@contextmanager
def registry(folder: Path, password_file: Path | None = None) -> Iterator[Registry]:
    """As the twin's; where the machine has none, the test is skipped."""
    require_program("docker-registry")
    with (
        container.registry(folder, password_file) as server,
        _counting(server.address) as counter,
    ):
        yield Registry(counter.address, counter)


@dataclass
class _Counter:
    address: str
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self.lock:
            self.sent += count


@contextmanager
def _counting(target: str) -> Iterator[_Counter]:
    """A way to ``target`` that counts what is sent there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        counter = _Counter(f"127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_accept, args=(listener, target, counter), daemon=True)
        thread.start()
        yield counter
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(listener: socket.socket, target: str, counter: _Counter) -> None:
    connections = []
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            thread = threading.Thread(target=_connect, args=(client, target, counter), daemon=True)
            thread.start()
            connections.append(thread)
    for thread in connections:
        thread.join()


def _connect(client: socket.socket, target: str, counter: _Counter) -> None:
    host, _, port = target.partition(":")
    with client, socket.create_connection((host, int(port))) as server:
        back = threading.Thread(target=_copy, args=(server, client, None), daemon=True)
        back.start()
        _copy(client, server, counter)
        back.join()


def _copy(source: socket.socket, target: socket.socket, counter: _Counter | None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if counter:
                counter.add(len(data))
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
