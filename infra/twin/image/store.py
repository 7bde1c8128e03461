"""Functions' processes from images in a registry: pulled, unpacked once, started in bubblewrap."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from infra.twin.image.container import bubblewrap
from infra.twin.image.registry import Registry
from infra.twin.image.root import Root, add_layer, described, make_empty

_CHUNK = 1 << 20
# The model and the application: images mostly differ in these, which are the last.
_OWN_LAYERS = 2


class DamagedImage(Exception):
    """What the registry gave is not what the digest says."""


class ImageStore:
    """Roots of the images of one repository. Layers below the last two are shared by hard links."""

    def __init__(self, folder: Path, registry: Registry, repository: str) -> None:
        self._folder, self._registry, self._repository = folder, registry, repository
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._roots: dict[str, Root] = {}

    def launch(
        self, image_digest: str, environment: Mapping[str, str], /
    ) -> subprocess.Popen[bytes]:
        """The image's entry as a process, its output and errors in one pipe.

        Raises:
            DamagedImage, HTTPError: it cannot be pulled.
            ProgramMissing: this machine has no bubblewrap.
        """
        command = bubblewrap(self.root(image_digest), environment)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def root(self, digest: str) -> Root:
        """Pulls and unpacks it if nobody has yet."""
        with self._locks[digest]:
            if digest not in self._roots:
                self._roots[digest] = self._unpack(digest)
            return self._roots[digest]

    def _unpack(self, digest: str) -> Root:
        found, content = self._registry.manifest(self._repository, digest)
        if found != digest or f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            raise DamagedImage(f"asked for {digest}, got {found}")
        manifest = json.loads(content)
        config = json.loads(self._registry.blob(self._repository, manifest["config"]["digest"]))
        layers = [layer["digest"] for layer in manifest["layers"]]
        shared = self._shared(layers[:-_OWN_LAYERS])
        folder = self._folder / digest.replace(":", "-")
        shutil.copytree(shared, folder, symlinks=True, copy_function=_link)
        self._add(layers[-_OWN_LAYERS:], folder)
        return described(config, folder)

    def _shared(self, layers: Sequence[str]) -> Path:
        """A folder with these layers, which no image may write into."""
        name = f"layers-{hashlib.sha256(json.dumps(layers).encode()).hexdigest()}"
        folder = self._folder / name
        with self._locks[name]:
            if not folder.exists():
                building = folder.with_suffix(".part")
                make_empty(building)
                self._add(layers, building)
                building.rename(folder)
        return folder

    def _add(self, layers: Sequence[str], folder: Path) -> None:
        for layer in layers:
            with tempfile.NamedTemporaryFile(dir=self._folder) as blob:
                self._pull(layer, blob)
                add_layer(Path(blob.name), folder)

    def _pull(self, digest: str, file: Any) -> None:
        url = f"http://{self._registry.address}/v2/{self._repository}/blobs/{digest}"
        found = hashlib.sha256()
        with urlopen(url) as answer:  # nosec B310 # loopback
            while chunk := answer.read(_CHUNK):
                found.update(chunk)
                file.write(chunk)
        file.flush()
        if f"sha256:{found.hexdigest()}" != digest:
            raise DamagedImage(f"asked for {digest}, got sha256:{found.hexdigest()}")


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
