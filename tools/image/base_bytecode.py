"""Writes a layer with compiled bytecode for the Python of a base image, which has only sources."""

from __future__ import annotations

import argparse
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.oci import Entry, blob_path, read_image, with_parents, write_layer
from tools.image.layer import cached, compiled


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="image layout")
    parser.add_argument("--folder", required=True, help="of the base: usr/lib/python3.11")
    parser.add_argument("--output", type=Path, required=True, help="layer.tar.gz to write")
    options = parser.parse_args(arguments)
    found = {entry.path: entry for entry in _bytecode(options.base, options.folder)}
    if not found:
        print(f"kiln: error: {options.base} has no Python in {options.folder}", file=sys.stderr)
        return 1
    write_layer(with_parents(found.values()), options.output)
    return 0


def _bytecode(base: Path, folder: str) -> Iterator[Entry]:
    for layer in read_image(base).manifest["layers"]:
        with tarfile.open(blob_path(base, layer["digest"])) as archive:
            for member in archive:
                path = member.name.removeprefix("./").removeprefix("/")
                wanted = member.isreg() and _is_used(path, folder)
                source = archive.extractfile(member) if wanted else None
                code = compiled(source.read(), f"/{path}") if source else None
                if code is not None:
                    yield Entry(cached(path), data=code)


def _is_used(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/") and path.endswith(".py") and "/test/" not in path


if __name__ == "__main__":
    sys.exit(main())
