"""Runs an image without a container engine: in bubblewrap, read-only and unprivileged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.oci import blob_path, read_image
from common.programs import find_program

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
