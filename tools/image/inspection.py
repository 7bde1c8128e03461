"""Reads an image layout: its layers and their content."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.oci import blob_path, read_image

SECRET_FILE = re.compile(
    r"(?:.*/)?(?:\.env(?:\.[^/]*)?|\.netrc|\.pypirc|\.npmrc|\.git(?:/.*)?|\.git-credentials"
    r"|id_(?:rsa|ed25519|ecdsa)"
    r"|\.aws/(?:credentials|config)|\.docker/config\.json|credentials\.json|.*\.(?:key|p12|pfx|jks))"
)
_CONTENT = {
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}"),
    "an AWS access key": re.compile(
        rb"(?<![A-Z0-9])(?:AKIA|ASIA)(?!.{9}EXAMPLE)[A-Z0-9]{16}(?![A-Z0-9])"
    ),
    "a GitHub token": re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36}\b|\bgithub_pat_\w{60,}"),
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z]{34}\b"),
    "a Slack token": re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{20,}"),
    "an API key of this service": re.compile(rb"\bkiln_[\w-]{43}\b"),
}
_NAME = re.compile(
    r".*(?:SECRET|PASSW(?:OR)?D|TOKEN|CREDENTIAL|PRIVATE|ACCESS_KEY|API_?KEY).*", re.I
)


def secret_in(content: bytes) -> str | None:
    """A description of the secret that the text resembles, or None."""
    for name, pattern in _CONTENT.items():
        if pattern.search(content):
            return f"contains what looks like {name}"
    return None


def secret_variable(entry: str) -> str | None:
    """Checks ``NAME=value`` for a secret; a variable with a secret's name must be empty."""
    name, _, value = entry.partition("=")
    if value and _NAME.fullmatch(name):
        return f"{name} has a value"
    reason = secret_in(value.encode())
    return f"{name} {reason}" if reason else None


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
    """``name`` is the last part of the layer's label; sizes are compressed bytes."""

    name: str
    media_type: str
    blob: Path
    digest: str
    size: int
    files: Sequence[File]


@dataclass(frozen=True)
class Inspected:
    """Layers from bottom to top."""

    config: Mapping[str, Any]
    layers: Sequence[Layer]

    def files(self) -> Iterator[tuple[Layer, File]]:
        return ((layer, file) for layer in self.layers for file in layer.files)


def inspect(layout: Path) -> Inspected:
    """Reads the layout's only image completely.

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
