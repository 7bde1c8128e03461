"""Runs an image without a container engine: in bubblewrap, read-only and unprivileged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from common.oci import (
    MANIFEST,
    Entry,
    Image,
    add_layer,
    blob_path,
    read_image,
    with_parents,
    write_image,
    write_layer,
)
from common.programs import find_program, free_port

_WHITEOUT = ".wh."


@dataclass(frozen=True)
class Root:
    """An unpacked image: its files and its configuration."""

    folder: Path
    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    working_folder: str
    user: str

    def but(self, **changes: Any) -> Root:
        return replace(self, **changes)


def unpack(layout: Path, folder: Path) -> Root:
    """Unpacks all layers of a layout."""
    image = read_image(layout)
    make_empty(folder)
    for layer in image.manifest["layers"]:
        extract_layer(blob_path(layout, layer["digest"]), folder)
    return described(image.config, folder)


def make_empty(folder: Path) -> None:
    """Creates the mount points that a container engine would create."""
    for mount in ("dev", "proc", "tmp"):
        (folder / mount).mkdir(parents=True)


def extract_layer(blob: Path, folder: Path) -> None:
    """Extracts another layer on top. Files are never modified in place, since they may be
    hard-linked.
    """
    with tarfile.open(blob) as archive:
        for member in archive:
            _place(archive, member, folder)


def described(config: Mapping[str, Any], folder: Path) -> Root:
    """The root in a folder, with an image's configuration."""
    settings = config["config"]
    return Root(
        folder,
        tuple(settings["Entrypoint"]) + tuple(settings.get("Cmd") or ()),
        dict(entry.split("=", 1) for entry in settings.get("Env", [])),
        settings.get("WorkingDir") or "/",
        settings["User"],
    )


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = folder / member.name
    if path.name.startswith(_WHITEOUT):
        hidden = path.with_name(path.name.removeprefix(_WHITEOUT))
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()
        return
    if not member.isdir() and os.path.lexists(path):
        path.unlink()
    member.uid, member.gid = os.getuid(), os.getgid()
    archive.extract(member, folder, filter="tar")


@dataclass
class Container:
    """A running process of an image, the first of its process namespace."""

    process: subprocess.Popen[bytes]
    pid: int  # of the program itself, as seen from outside

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


@contextmanager
def running(
    root: Root,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    instead: Mapping[str, Path] | None = None,
    first: bool = True,
    **popen: Any,
) -> Iterator[Container]:
    """Runs the image's entry point for the duration of the block.

    Args:
        root: the unpacked image.
        environment: variables in addition to the image's own.
        arguments: arguments of the entry point.
        instead: files of this machine that replace the container's.
        first: whether the program is process 1, as in a container; in Lambda it is not.
        popen: keyword arguments for `subprocess.Popen`, such as `stdout`.
    """
    reading, writing = os.pipe()
    try:
        command = bubblewrap(root, environment or {}, instead or {}, writing)
        if first:
            command.insert(1, "--as-pid-1")
        process = subprocess.Popen([*command, *arguments], pass_fds=[writing], **popen)
    finally:
        os.close(writing)
    with os.fdopen(reading) as information, process:
        try:
            pid = json.load(information)["child-pid"]
            yield Container(process, pid if first else _only_child(pid))
        finally:
            process.kill()


def _only_child(pid: int) -> int:
    while True:  # bubblewrap reports its own process 1, which then starts the program
        if children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(children[0])
        time.sleep(0.005)


def bubblewrap(
    root: Root,
    environment: Mapping[str, str],
    instead: Mapping[str, Path] | None = None,
    info: int | None = None,
) -> list[str]:
    """The command that runs the image's entry point; it reports the process through `info`.

    Raises:
        ProgramMissing: bubblewrap is not installed.
    """
    user, _, group = root.user.partition(":")
    variables = {"PATH": "/usr/bin", **root.environment, **environment}
    options = [
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
        *("--die-with-parent", "--uid", user, "--gid", group or user),
        *("--ro-bind", str(root.folder), "/", "--proc", "/proc", "--dev", "/dev"),
        *("--tmpfs", "/tmp"),  # noqa: S108 # the container's own
        *("--chdir", root.working_folder),
    ]
    if info is not None:
        options += ["--info-fd", str(info)]
    for place, file in (instead or {}).items():
        options += ["--ro-bind", str(file.absolute()), place]
    options.append("--clearenv")
    for name, value in variables.items():
        options += ["--setenv", name, value]
    return [str(find_program("bwrap")), *options, "--", *root.entrypoint]


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


MODEL = "opt/model/model.onnx"


class NoModel(ValueError):
    """The image has no model layer."""


def with_model(layout: Path, model: Path, target: Path) -> str:
    """Writes the image's layout with another model; returns the digest.

    Raises:
        NoModel: there is no model to replace.
    """
    image = read_image(layout)
    layers = [blob_path(layout, layer["digest"]) for layer in image.manifest["layers"]]
    place = _find_model(layers)
    for descriptor in image.manifest["layers"]:
        _link(layout, target, descriptor["digest"])
    tar = target / "model.tar.gz"
    write_layer(with_parents([Entry(MODEL, data=model)]), tar, effort=1)
    changed = add_layer(target, _below(image, place), tar, f"with_model {model.name}")
    tar.unlink()
    for blob in layers[place + 1 :]:
        changed = add_layer(target, changed, blob, "as before")
    return write_image(target, changed)


def _find_model(layers: list[Path]) -> int:
    for place in reversed(range(len(layers))):
        with tarfile.open(layers[place]) as archive:
            if any(member.name.removeprefix("./") == MODEL for member in archive):
                return place
    raise NoModel(f"no layer of the image has {MODEL}")


def _below(image: Image, place: int) -> Image:
    """The image without this layer and those above it."""
    rootfs = image.config["rootfs"]
    history = [one for one in image.config.get("history", []) if not one.get("empty_layer")]
    return Image(
        image.manifest | {"layers": image.manifest["layers"][:place]},
        image.config
        | {
            "history": history[:place],
            "rootfs": rootfs | {"diff_ids": rootfs["diff_ids"][:place]},
        },
    )


def _link(layout: Path, target: Path, digest: str) -> None:
    place = blob_path(target, digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(blob_path(layout, digest).resolve())


_CHUNK = 1 << 20
# Model and application: the last layers, in which images mostly differ.
_OWN_LAYERS = 2


class DamagedImage(Exception):
    """The registry's content does not match the digest."""


class ImageStore:
    """Unpacked images of one repository. Layers below the last two are shared by hard links."""

    def __init__(self, folder: Path, registry: Registry, repository: str) -> None:
        self._folder, self._registry, self._repository = folder, registry, repository
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._roots: dict[str, Root] = {}

    def launch(
        self, image_digest: str, environment: Mapping[str, str], /
    ) -> subprocess.Popen[bytes]:
        """The image's entry point as a process, with stdout and stderr in one pipe.

        Raises:
            DamagedImage, HTTPError: it cannot be pulled.
            ProgramMissing: bubblewrap is not installed.
        """
        command = bubblewrap(self.root(image_digest), environment)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def root(self, digest: str) -> Root:
        """Pulls and unpacks it if necessary."""
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
        shutil.copytree(shared, folder, symlinks=True, copy_function=_store_link)
        self._add(layers[-_OWN_LAYERS:], folder)
        return described(config, folder)

    def _shared(self, layers: Sequence[str]) -> Path:
        """A folder with these layers, which images must not write to."""
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
                extract_layer(Path(blob.name), folder)

    def _pull(self, digest: str, file: Any) -> None:
        url = f"http://{self._registry.address}/v2/{self._repository}/blobs/{digest}"
        found = hashlib.sha256()
        with urlopen(url) as answer:
            while chunk := answer.read(_CHUNK):
                found.update(chunk)
                file.write(chunk)
        file.flush()
        if f"sha256:{found.hexdigest()}" != digest:
            raise DamagedImage(f"asked for {digest}, got sha256:{found.hexdigest()}")


def _store_link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
