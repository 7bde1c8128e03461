"""Writes an image layer from files and their paths in it, and Python's bytecode beside its sources.

An image's root is read-only, so without it every start would compile everything again. With --base
the layer is the bytecode of the base image's own modules, of which it has only the sources.
"""

from __future__ import annotations

import argparse
import importlib.util
import marshal
import re
import sys
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from common.oci import Entry, blob_path, read_image, with_parents, write_layer

# Not used at run time: type stubs, static libraries.
_NEVER = re.compile(r".*\.(pyi|pyc|pyx|pxd|a|lib|cmake)|.*/py\.typed")
# Of a distribution's metadata, only what importlib.metadata reads, and the licence.
_METADATA = re.compile(
    r"[^/]*\.dist-info/(METADATA|entry_points\.txt"
    r"|(licen[cs]es?/.*|LICEN[CS]E|NOTICE|COPYING)[^/]*)",
    re.IGNORECASE,
)


class LayerError(Exception):
    """The layer cannot be created; the message says which file and why."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--folder", default="", help="of the image, in which all files are put")
    parser.add_argument("--base", type=Path, help="layout of an image whose folder is compiled")
    parser.add_argument("--exclude", action="append", default=[], help="pattern within the folder")
    parser.add_argument("--only", action="append", default=[], help="pattern: nothing else")
    parser.add_argument("--compile", action="store_true", help="add bytecode")
    parser.add_argument("--effort", type=int, default=6, help="of gzip: 1 quick, 9 small")
    parser.add_argument("--output", type=Path, required=True, help="layer.tar.gz to write")
    parser.add_argument("file", nargs="*", help="place=source, the place within the folder")
    options = parser.parse_args(arguments)
    try:
        if options.base:
            found = list(base_bytecode(options.base, options.folder))
        else:
            files = wanted(map(_pair, options.file), options.exclude, options.only)
            found = list(entries(files, options.folder, options.compile))
        if not found:
            raise LayerError(f"no file is left for {options.output.name}")
        write_layer(with_parents(found), options.output, options.effort)
    except LayerError as error:
        print(f"kiln: error: {error}", file=sys.stderr)
        return 1
    return 0


def _pair(text: str) -> tuple[str, Path]:
    place, _, source = text.partition("=")
    return place, Path(source)


def wanted(
    files: Iterable[tuple[str, Path]], exclude: Sequence[str], only: Sequence[str] = ()
) -> dict[str, Path]:
    """Source by path: the files that an image needs.

    Args:
        files: paths and sources.
        exclude: shell patterns of paths to leave out; * also matches a slash.
        only: if not empty, a path must match one.

    Raises:
        LayerError: two different files have one path, or a path leads out of the folder.
    """
    chosen: dict[str, Path] = {}
    for place, source in files:
        if ".." in PurePosixPath(place).parts or place.startswith("/"):
            raise LayerError(f"{place} leads out of its folder")
        if not _is_used(place) or _matches(place, exclude):
            continue
        if only and not _matches(place, only):
            continue
        other = chosen.setdefault(place, source)
        # Several wheels may contain the same __init__.py of a shared package.
        if other != source and other.read_bytes() != source.read_bytes():
            raise LayerError(f"{place} is two files: {other} and {source}")
    return chosen


def _matches(place: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(place, pattern) for pattern in patterns)


def _is_used(place: str) -> bool:
    if ".dist-info/" in place:
        return _METADATA.fullmatch(place) is not None
    return _NEVER.fullmatch(place) is None


def entries(files: dict[str, Path], folder: str, with_bytecode: bool) -> Iterator[Entry]:
    for place, source in sorted(files.items()):
        path = f"{folder}/{place}" if folder else place
        data = source.read_bytes()
        yield Entry(path, mode=0o755 if _is_program(data) else 0o644, data=source)
        if with_bytecode and path.endswith(".py"):
            code = compiled(data, f"/{path}")
            if code is not None:
                yield Entry(cached(path), data=code)


def _is_program(data: bytes) -> bool:
    """By content: file modes are lost in some caches and sandboxes.

    An ELF executable names its loader; a library does not.
    """
    return data.startswith(b"#!") or (data.startswith(b"\x7fELF") and b"/ld-linux" in data[:4096])


def base_bytecode(base: Path, folder: str) -> Iterator[Entry]:
    """Bytecode of the modules in a folder of an image, but for those of its tests."""
    found: dict[str, Entry] = {}  # a later layer replaces a file of an earlier one
    for layer in read_image(base).manifest["layers"]:
        with tarfile.open(blob_path(base, layer["digest"])) as archive:
            for member in archive:
                path = member.name.removeprefix("./").removeprefix("/")
                is_module = (
                    path.startswith(f"{folder}/") and path.endswith(".py") and member.isreg()
                )
                source = archive.extractfile(member) if is_module and "/test/" not in path else None
                code = compiled(source.read(), f"/{path}") if source else None
                if code is not None:
                    found[path] = Entry(cached(path), data=code)
    yield from found.values()


_HASH_BASED_UNCHECKED = 0b01  # PEP 552


def cached(path: str) -> str:
    """The path at which Python 3.11 looks for the bytecode of ``path``."""
    source = PurePosixPath(path)
    return str(source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc")


def compiled(source: bytes, path: str) -> bytes | None:
    """The content of the bytecode file, or None for sources that this version cannot compile.

    Args:
        source: the module.
        path: its path in the image, which tracebacks show.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about third-party code
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None
    flags = _HASH_BASED_UNCHECKED.to_bytes(4, "little")
    header = importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


if __name__ == "__main__":
    sys.exit(main())
