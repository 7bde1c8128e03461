"""A local container registry: Debian's docker-registry on a free port."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from common.oci import MANIFEST
from common.programs import find_program, free_port


@dataclass
class Registry:
    """`address` is host and port, as in an image's name."""

    address: str

    def manifest(self, repository: str, reference: str) -> tuple[str, bytes]:
        """Digest and content for a tag or digest."""
        request = Request(f"http://{self.address}/v2/{repository}/manifests/{reference}")
        request.add_header("Accept", MANIFEST)
        with urlopen(request) as answer:  # noqa: S310 # loopback
            return answer.headers["Docker-Content-Digest"], answer.read()

    def blob(self, repository: str, digest: str) -> bytes:
        with urlopen(f"http://{self.address}/v2/{repository}/blobs/{digest}") as answer:
            content: bytes = answer.read()
            return content


@contextmanager
def registry(folder: Path, password_file: Path | None = None) -> Iterator[Registry]:
    """Stores images below ``folder``; an htpasswd file turns on authentication.

    Raises:
        ProgramMissing: docker-registry is not installed.
    """
    address = f"127.0.0.1:{free_port()}"
    settings: dict[str, Any] = {
        "version": 0.1,
        "http": {"addr": address},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "log": {"level": "error"},
    }
    if password_file:
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(password_file)}}
    (folder / "registry.json").write_text(json.dumps(settings))
    command = [str(find_program("docker-registry")), "serve", str(folder / "registry.json")]
    # It logs every query for a missing layer as an error.
    with (
        (folder / "registry.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as server,
    ):
        try:
            _wait_for(f"http://{address}/v2/")
            yield Registry(address)
        finally:
            server.terminate()


def _wait_for(url: str) -> None:
    for _ in range(600):
        try:
            with urlopen(url):  # noqa: S310 # loopback
                return
        except HTTPError as asked:  # asks for a password: it is up
            asked.close()
            return
        except URLError:
            time.sleep(0.05)
    raise TimeoutError(url)
