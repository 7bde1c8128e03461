"""Checks an image layout against AWS Lambda's requirements, which neither a push nor a local run
would report.

https://docs.aws.amazon.com/lambda/latest/dg/images-create.html, and issues that users reported
(rules_oci#645, rules_aws#145): one manifest, gzipped layers, and self-contained layers.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tools.image.inspection import SECRET_FILE, File, Inspected, inspect, secret_in, secret_variable

_MANIFESTS = {
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
}
_GZIPPED = {
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
_X86_64 = 62  # e_machine of ELF
_PRIVATE = {"root", "home/nonroot"}  # home folders of the base, which functions do not read


@dataclass(frozen=True)
class SizeLimits:
    """Limits of compressed bytes, for the image and for layers by the last part of their labels."""

    image: int = 10 * 10**9
    layers: Mapping[str, int] = field(default_factory=dict)


def problems(layout: Path, limits: SizeLimits, unwanted: Sequence[str] = ()) -> list[str]:
    """All violations; none if Lambda would run the image.

    Args:
        layout: the image.
        limits: maximum sizes.
        unwanted: packages that must not be in it, by their folders in site-packages.
    """
    index = json.loads((layout / "index.json").read_bytes())
    found = list(_manifest_problems(index))
    if found:
        return found  # nothing else can be checked
    try:
        image = inspect(layout)
    except (OSError, EOFError, tarfile.TarError, KeyError) as error:
        return [f"the layout cannot be read: {type(error).__name__}: {error}"]
    for rule in _RULES:
        found += rule(image)
    found += _size_problems(image, limits)
    found += _unwanted_problems(image, unwanted)
    return found


def _manifest_problems(index: Mapping[str, Any]) -> Iterator[str]:
    manifests = index.get("manifests", [])
    if len(manifests) != 1:
        yield f"the layout has {len(manifests)} manifests; Lambda takes one, no index of more"
    for manifest in manifests:
        if manifest["mediaType"] not in _MANIFESTS:
            yield f"the manifest is a {manifest['mediaType']}; Lambda takes a single image's"


def _layer_problems(image: Inspected) -> Iterator[str]:
    for layer in image.layers:
        if layer.media_type not in _GZIPPED:
            yield f"{layer.name}: {layer.media_type} is no gzipped layer"
        content = layer.blob.read_bytes()
        if not content.startswith(b"\x1f\x8b"):
            yield f"{layer.name}: the blob is not gzipped, whatever its media type says"
        if (f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)) != (
            layer.digest,
            layer.size,
        ):
            yield f"{layer.name}: the blob is not the one that the manifest describes"


def _name_problems(image: Inspected) -> Iterator[str]:
    for layer in image.layers:
        seen: set[str] = set()
        for file in layer.files:
            if file.info.name.startswith("/"):
                yield f"{layer.name}: {file.info.name} is an absolute name"
            if ".." in PurePosixPath(file.path).parts:
                yield f"{layer.name}: {file.path} leads out of the root"
            if file.path in seen:
                yield f"{layer.name}: {file.path} is there twice"
            seen.add(file.path)
            if file.info.issym() and _climbs_out(file):
                yield f"{layer.name}: {file.path} links out of the root: {file.info.linkname}"
            if file.info.isdev():
                yield f"{layer.name}: {file.path} is a device"


def _climbs_out(link: File) -> bool:
    depth = 0 if link.info.linkname.startswith("/") else len(PurePosixPath(link.path).parts) - 1
    for part in PurePosixPath(link.info.linkname).parts:
        depth += {"..": -1, "/": 0}.get(part, 1)
        if depth < 0:
            return True
    return False


def _parent_problems(image: Inspected) -> Iterator[str]:
    for layer in image.layers:
        folders = {file.path for file in layer.files if file.info.isdir()} | {"."}
        paths = [PurePosixPath(file.path) for file in layer.files]
        inside = [path for path in paths if not path.is_absolute() and ".." not in path.parts]
        for folder in sorted({str(path.parent) for path in inside} - folders):
            yield f"{layer.name}: the folder {folder} has no entry of its own"


def _right_problems(image: Inspected) -> Iterator[str]:
    for layer, file in image.files():
        private = any(file.path == home or file.path.startswith(f"{home}/") for home in _PRIVATE)
        needed = 0o005 if file.info.isdir() else 0o004
        if not private and not file.info.issym() and file.info.mode & needed != needed:
            yield f"{layer.name}: {file.path} cannot be read by every user ({file.info.mode:o})"


def _architecture_problems(image: Inspected) -> Iterator[str]:
    platform = (image.config.get("os"), image.config.get("architecture"))
    if platform != ("linux", "amd64"):
        yield f"the image is for {'/'.join(map(str, platform))}, expected linux/amd64"
    for layer, file in image.files():
        if file.head.startswith(b"\x7fELF"):
            machine = int.from_bytes(file.head[18:20], "little")
            if file.head[4] != 2 or machine != _X86_64:
                yield f"{layer.name}: {file.path} is a program for machine {machine}, not x86-64"


def _entrypoint_problems(image: Inspected) -> Iterator[str]:
    config = image.config.get("config") or {}
    entrypoint = config.get("Entrypoint") or []
    if not entrypoint:
        yield "no entrypoint"
    # The last layer with a path wins; links are followed once, since /usr/bin/python3 is one.
    last = {file.path: file for _, file in image.files()}
    for number, word in enumerate(entrypoint):
        if word.startswith("/"):
            file = last.get(word.lstrip("/"))
            if file and file.info.issym():
                file = last.get(str(PurePosixPath(file.path).parent / file.info.linkname))
            if file is None:
                yield f"the entrypoint's {word} is in no layer"
            elif number == 0 and not file.info.mode & 0o001:
                yield f"the entrypoint {word} cannot be executed by every user"


def _secret_problems(image: Inspected) -> Iterator[str]:
    for entry in (image.config.get("config") or {}).get("Env") or []:
        if reason := secret_variable(entry):
            yield f"the environment: {reason}"
    for entry in image.config.get("history") or []:
        if reason := secret_in(str(entry).encode()):
            yield f"the history: {reason}"
    for layer, file in image.files():
        if SECRET_FILE.fullmatch(file.path):
            yield f"{layer.name}: {file.path} is where secrets are kept"
        elif reason := secret_in(file.head):
            yield f"{layer.name}: {file.path}: {reason}"


def _size_problems(image: Inspected, limits: SizeLimits) -> Iterator[str]:
    total = sum(layer.size for layer in image.layers)
    if total > limits.image:
        yield f"the image has {total:,} bytes, at most {limits.image:,} are allowed"
    for name, limit in limits.layers.items():
        sizes = [layer.size for layer in image.layers if layer.name == name]
        if len(sizes) != 1:
            yield f"{len(sizes)} layers are called {name}, expected one"
        elif sizes[0] > limit:
            yield f"{name}: {sizes[0]:,} bytes, at most {limit:,} are allowed"


def _unwanted_problems(image: Inspected, unwanted: Sequence[str]) -> Iterator[str]:
    names = "|".join(map(re.escape, unwanted))
    pattern = re.compile(rf"(?:.*/)?(?:site|dist)-packages/({names})(?:\.py)?(?:/.*)?")
    found = {
        (layer.name, match[1])
        for layer, file in image.files()
        if unwanted and (match := pattern.fullmatch(file.path))
    }
    for layer_name, package in sorted(found):
        yield f"{layer_name}: {package} must not be in the image"


_RULES = (
    _layer_problems,
    _name_problems,
    _parent_problems,
    _right_problems,
    _architecture_problems,
    _entrypoint_problems,
    _secret_problems,
)
