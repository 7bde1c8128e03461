"""OCI image layouts: reproducible layers, content-addressed blobs, and an index with one manifest.

https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md
"""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any


@dataclass(frozen=True)
class Entry:
    """A path of the image, relative to its root; ``data`` is its content or a file with it."""

    path: str
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    data: bytes | Path = b""
    link: str = ""
    owner: int = 0


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, sorted, with every parent folder, which Lambda requires."""
    found = {entry.path: entry for entry in entries}
    for path in list(found):
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                found.setdefault(str(parent), Entry(str(parent), tarfile.DIRTYPE, 0o755))
    return [found[path] for path in sorted(found)]


def write_layer(entries: Iterable[Entry], target: Path, effort: int = 6) -> None:
    """Writes a layer, gzipped at level ``effort``, 1 to 9.

    Reproducible: no times, no owners, and neither a name nor a time in the gzip header."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", effort, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.link
            info.uid = info.gid = entry.owner
            if entry.kind == tarfile.REGTYPE:
                with _open(entry.data) as data:
                    info.size = data.seek(0, io.SEEK_END)
                    data.seek(0)
                    archive.addfile(info, data)
            else:
                archive.addfile(info)


def _open(data: bytes | Path) -> IO[bytes]:
    return data.open("rb") if isinstance(data, Path) else io.BytesIO(data)


Json = dict[str, Any]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
_DOCKER = "application/vnd.docker."
_EPOCH = "1970-01-01T00:00:00Z"
_CHUNK = 1 << 20


class ImageError(Exception):
    """The image cannot be built; the message says what is wrong with its parts."""


@dataclass(frozen=True)
class Image:
    """A manifest and its configuration as parsed JSON."""

    manifest: Json
    config: Json


def empty_image(os: str, architecture: str) -> Image:
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": CONFIG}}
    config = {"created": _EPOCH, "architecture": architecture, "os": os, "config": {}}
    return Image(
        manifest | {"layers": []},
        config | {"history": [], "rootfs": {"type": "layers", "diff_ids": []}},
    )


def read_image(layout: Path) -> Image:
    """The one image of a layout.

    Raises:
        ImageError: the layout holds none or several.
    """
    manifest = json.loads(blob_path(layout, manifest_digest(layout)).read_bytes())
    config = json.loads(blob_path(layout, manifest["config"]["digest"]).read_bytes())
    return Image(manifest, config)


def manifest_digest(layout: Path) -> str:
    """The digest of a layout's only image.

    Raises:
        ImageError: the layout holds none or several.
    """
    manifests = json.loads((layout / "index.json").read_bytes())["manifests"]
    if len(manifests) != 1:
        raise ImageError(f"{layout} has {len(manifests)} manifests, expected one")
    return str(manifests[0]["digest"])


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/", 1)


def add_layer(layout: Path, image: Image, tar: Path, created_by: str) -> Image:
    """Adds a layer, gzipped or plain, on top of the image."""
    digest, diff_id, compressed = _digests(tar)
    target = blob_path(layout, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copyfile(tar, target)
    descriptor = {"mediaType": _layer_type(image, compressed), "digest": digest}
    layers = [*image.manifest["layers"], descriptor | {"size": tar.stat().st_size}]
    rootfs = image.config["rootfs"]
    history = [*image.config.get("history", []), {"created": _EPOCH, "created_by": created_by}]
    return Image(
        image.manifest | {"layers": layers},
        image.config
        | {"history": history, "rootfs": rootfs | {"diff_ids": [*rootfs["diff_ids"], diff_id]}},
    )


def _layer_type(image: Image, compressed: bool) -> str:
    if image.manifest["mediaType"].startswith(_DOCKER):
        return _DOCKER + ("image.rootfs.diff.tar.gzip" if compressed else "image.rootfs.diff.tar")
    return "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compressed else "")


def _digests(tar: Path) -> tuple[str, str, bool]:
    """Digest of the file, digest of the tar inside, and whether the file is gzipped."""
    outer, inner = hashlib.sha256(), hashlib.sha256()
    with tar.open("rb") as file:
        magic = file.read(4)
        if magic == b"\x28\xb5\x2f\xfd":
            raise ImageError(f"{tar} is compressed by zstd, which Lambda does not take: use gzip")
        compressed = magic[:2] == b"\x1f\x8b"
        gunzip = zlib.decompressobj(wbits=31)
        file.seek(0)
        while chunk := file.read(_CHUNK):
            outer.update(chunk)
            while compressed and chunk:
                inner.update(gunzip.decompress(chunk))
                chunk = gunzip.unused_data
                if gunzip.eof and chunk:  # gzip members may be concatenated
                    gunzip = zlib.decompressobj(wbits=31)
        if compressed and not gunzip.eof:
            raise ImageError(f"{tar} ends in the middle of its gzip data")
    digest = f"sha256:{outer.hexdigest()}"
    return digest, f"sha256:{inner.hexdigest()}" if compressed else digest, compressed


def write_image(layout: Path, image: Image) -> str:
    """Writes configuration, manifest and index; returns the manifest's digest."""
    config_digest, config_size = _put(layout, image.config)
    config = image.manifest["config"] | {"digest": config_digest, "size": config_size}
    config.pop("data", None)  # an embedded copy would be of the old configuration
    manifest = image.manifest | {"config": config}
    digest, size = _put(layout, manifest)
    entry = {"mediaType": manifest["mediaType"], "digest": digest, "size": size}
    (layout / "index.json").write_bytes(_encode({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_bytes(_encode({"imageLayoutVersion": "1.0.0"}))
    return digest


def _put(layout: Path, content: Json) -> tuple[str, int]:
    data = _encode(content)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    path = blob_path(layout, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return digest, len(data)


def _encode(content: Json) -> bytes:
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
