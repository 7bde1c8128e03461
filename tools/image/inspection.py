"""An image layout taken apart: its layers and what is in them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.image.layout import blob_path, read_image

_HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class File:
    """A path of a layer; ``head`` is the first megabyte of a regular file."""

    info: tarfile.TarInfo
    head: bytes

    @property
    def path(self) -> str:
        return self.info.name.removeprefix("./").rstrip("/")


@dataclass(frozen=True)
class Layer:
    """``name`` is the last part of the label that made it; sizes are compressed bytes."""

    name: str
    media_type: str
    blob: Path
    digest: str
    size: int
    files: Sequence[File]


@dataclass(frozen=True)
class Inspected:
    """Layers from the lowest."""

    config: Mapping[str, Any]
    layers: Sequence[Layer]

    def files(self) -> Iterator[tuple[Layer, File]]:
        return ((layer, file) for layer in self.layers for file in layer.files)


def inspect(layout: Path) -> Inspected:
    """The one image of a layout, all of it read.

    Raises:
        OSError, EOFError, tarfile.TarError, KeyError: a part is missing or damaged.
    """
    image = read_image(layout)
    makers = [entry for entry in image.config.get("history", []) if not entry.get("empty_layer")]
    layers = []
    for number, described in enumerate(image.manifest["layers"]):
        blob = blob_path(layout, described["digest"])
        maker = makers[number].get("created_by", "") if number < len(makers) else ""
        name = maker.rpartition(":")[2] or f"layer {number}"
        kind, digest, size = (described[key] for key in ("mediaType", "digest", "size"))
        layers.append(Layer(name, kind, blob, digest, size, tuple(_files(blob))))
    return Inspected(image.config, layers)


def _files(blob: Path) -> Iterator[File]:
    with tarfile.open(blob) as archive:
        for info in archive:
            content = archive.extractfile(info) if info.isreg() else None
            yield File(info, content.read(_HEAD_BYTES) if content else b"")
