"""Hand an image layout to the container engine of this machine."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from common.oci import blob_path, read_image

_ENGINES = ("docker", "podman", "nerdctl")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, required=True, help="layout folder")
    parser.add_argument("--repo-tags", type=Path, required=True, help="lines of repository:tag")
    parser.add_argument("--loader", help="instead of the first engine on PATH")
    parser.add_argument("--output", type=Path, help="write the archive here and load nothing")
    options = parser.parse_args(arguments)
    tags = options.repo_tags.read_text(encoding="utf-8").split()
    if options.output:
        with options.output.open("wb") as file:
            write_archive(options.image, tags, file)
        return 0
    engine = options.loader or next(filter(shutil.which, _ENGINES), None)
    if engine is None:
        print(f"kiln: error: none of {', '.join(_ENGINES)} is on PATH", file=sys.stderr)
        return 1
    with subprocess.Popen([engine, "load"], stdin=subprocess.PIPE) as loading:
        assert loading.stdin
        with suppress(BrokenPipeError), loading.stdin:  # the engine ended early, and has said why
            write_archive(options.image, tags, loading.stdin)
    return loading.returncode


def write_archive(layout: Path, tags: Sequence[str], file: IO[bytes]) -> None:
    """What `docker load` reads: configuration, layers and a manifest.json that names them."""
    manifest = read_image(layout).manifest
    config = manifest["config"]["digest"].replace(":", "/")
    layers = [layer["digest"].replace(":", "/") for layer in manifest["layers"]]
    names = [f"blobs/{layer}.tar.gz" for layer in layers]
    entry = {"Config": f"blobs/{config}", "RepoTags": list(tags), "Layers": names}
    with tarfile.open(fileobj=file, mode="w|") as archive:
        _add(archive, f"blobs/{config}", blob_path(layout, config.replace("/", ":", 1)))
        for layer, name in zip(layers, names, strict=True):
            _add(archive, name, blob_path(layout, layer.replace("/", ":", 1)))
        data = json.dumps([entry]).encode()
        archive.addfile(_entry("manifest.json", len(data)), io.BytesIO(data))


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    with path.open("rb") as blob:
        archive.addfile(_entry(name, path.stat().st_size), blob)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o755
    return entry


if __name__ == "__main__":
    sys.exit(main())
