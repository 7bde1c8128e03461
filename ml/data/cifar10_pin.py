"""The dataset pin: the two files of CIFAR-10, identified by DVC's hashes. Uses only the standard
library.

The pin is an ordinary .dvc file, so DVC and this module read the same lines. Only the subset of
YAML that DVC writes is parsed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PIN_FILE = Path(__file__).with_name("cifar10.dvc")
FILE_NAMES = ("train.bin", "test.bin")

_FIELD = re.compile(r"(?P<dash>- +)?(?P<key>\w+): *(?P<value>.*)")
_MD5 = re.compile(r"[0-9a-f]{32}")


class PinError(ValueError):
    """The pin cannot be read; the message names the file and the remedy."""


class Mismatch(ValueError):
    """A file is not the pinned one; the message has its name, the expected and the actual hash."""


@dataclass(frozen=True)
class PinnedFile:
    """A file of the dataset: its name, DVC's hash, and its size in bytes."""

    name: str
    md5: str
    size: int

    def check(self, path: Path) -> None:
        """Raises Mismatch unless ``path`` holds exactly these bytes."""
        if not path.is_file():
            raise Mismatch(f"{path} is missing: expected md5 {self.md5}")
        size, found = path.stat().st_size, file_md5(path)
        if found != self.md5 or size != self.size:
            raise Mismatch(
                f"{path} is not the pinned file: expected md5 {self.md5} ({self.size} bytes), "
                f"found {found} ({size} bytes)"
            )


@dataclass(frozen=True)
class Pin:
    """Both files of the dataset."""

    train: PinnedFile
    test: PinnedFile

    @property
    def files(self) -> tuple[PinnedFile, PinnedFile]:
        return (self.train, self.test)

    @property
    def digest(self) -> str:
        """SHA-256 of the dataset in hex, over each file's name, hash and size, train first."""
        lines = [f"{file.name} md5:{file.md5} {file.size}\n" for file in self.files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def check(self, folder: Path) -> None:
        """Raises Mismatch unless ``folder`` holds the pinned files."""
        for file in self.files:
            file.check(folder / file.name)


def read_pin(path: Path = PIN_FILE) -> Pin:
    """Reads the pin from a .dvc file.

    Raises:
        PinError: the file is unreadable, or its outs are not exactly train.bin and test.bin with
            md5 and size.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise PinError(
            f"{path} cannot be read ({exc.strerror}): restore it from version control"
        ) from exc
    outs = {out.get("path"): out for out in _outs(text)}
    if set(outs) != set(FILE_NAMES):
        raise PinError(f"{path} should pin train.bin and test.bin, found {sorted(map(str, outs))}")
    train, test = (_pinned_file(path, name, outs[name]) for name in FILE_NAMES)
    return Pin(train, test)


def pin_folder(folder: Path) -> Pin:
    """The pin for the files that are now in ``folder``; reads them whole."""
    train, test = (
        PinnedFile(name, file_md5(folder / name), (folder / name).stat().st_size)
        for name in FILE_NAMES
    )
    return Pin(train, test)


def file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _outs(text: str) -> Iterator[dict[str, str]]:
    """The items of the top-level list ``outs``, as dictionaries of strings."""
    item: dict[str, str] = {}
    inside = False
    for line in text.splitlines():
        body = line.strip()
        if not body or body.startswith("#"):
            continue
        if line[0] not in " -":
            inside = body == "outs:"
        elif inside and (field := _FIELD.fullmatch(body)):
            if field["dash"]:
                if item:
                    yield item
                item = {}
            item[field["key"]] = field["value"].strip("'\"")
    if item:
        yield item


def _pinned_file(path: Path, name: str, out: dict[str, str]) -> PinnedFile:
    md5, size = out.get("md5", ""), out.get("size", "")
    if not _MD5.fullmatch(md5) or not size.isdecimal() or out.get("hash") != "md5":
        raise PinError(
            f"{path}: {name} needs an md5 of 32 hex digits, a size and 'hash: md5', found {out}"
        )
    return PinnedFile(name, md5, int(size))
