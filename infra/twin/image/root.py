"""The root file system of an image: its layers one over the other, as container engines do it."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.image.layout import blob_path, read_image

_WHITEOUT = ".wh."


@dataclass(frozen=True)
class Root:
    """An unpacked image: its files, and what its configuration says."""

    folder: Path
    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    working_folder: str
    user: str

    def but(self, **changes: Any) -> Root:
        return replace(self, **changes)


def unpack(layout: Path, folder: Path) -> Root:
    """All layers of a layout."""
    image = read_image(layout)
    make_empty(folder)
    for layer in image.manifest["layers"]:
        add_layer(blob_path(layout, layer["digest"]), folder)
    return described(image.config, folder)


def make_empty(folder: Path) -> None:
    """The folders that a container engine makes because it mounts upon them."""
    for mount in ("dev", "proc", "tmp"):
        (folder / mount).mkdir(parents=True)


def add_layer(blob: Path, folder: Path) -> None:
    """One more layer, over what is there. No file is changed in place: it may have other links."""
    with tarfile.open(blob) as archive:
        for member in archive:
            _place(archive, member, folder)


def described(config: Mapping[str, Any], folder: Path) -> Root:
    """The root in a folder, by an image's configuration."""
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
