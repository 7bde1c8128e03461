"""A real registry on this machine, and what went over the line to it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tools.debian.program import require_program

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Registry:
    """``address`` leads through a counter of what clients send."""

    address: str
    _counter: _Counter

    @property
    def bytes_received(self) -> int:
        return self._counter.sent

    def manifest(self, repository: str, reference: str) -> tuple[str, dict[str, Any]]:
        """Digest and content, for a tag or a digest."""
        request = Request(f"http://{self.address}/v2/{repository}/manifests/{reference}")
        request.add_header("Accept", MANIFEST)
        with urlopen(request) as answer:
            return answer.headers["Docker-Content-Digest"], json.load(answer)

    def blob(self, repository: str, digest: str) -> bytes:
        with urlopen(f"http://{self.address}/v2/{repository}/blobs/{digest}") as answer:
            content: bytes = answer.read()
            return content


@contextmanager
def registry(folder: Path, password_file: Path | None = None) -> Iterator[Registry]:
    """Debian's docker-registry below ``folder``; with an htpasswd file it asks who is there."""
    address = f"127.0.0.1:{_free_port()}"
    settings: dict[str, Any] = {
        "version": 0.1,
        "http": {"addr": address},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "log": {"level": "error"},
    }
    if password_file:
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(password_file)}}
    (folder / "registry.json").write_text(json.dumps(settings))
    command = [str(require_program("docker-registry")), "serve", str(folder / "registry.json")]
    # It calls every question for a layer that it does not have an error.
    with (
        (folder / "registry.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as server,
    ):
        try:
            _wait_for(f"http://{address}/v2/")
            with _counting(address) as counter:
                yield Registry(counter.address, counter)
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_for(url: str) -> None:
    for _ in range(600):
        try:
            with urlopen(url):
                return
        except HTTPError as asked:  # for a password: it is there
            asked.close()
            return
        except URLError:
            time.sleep(0.05)
    raise TimeoutError(url)


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
