"""Debian packages without root: resolve, fetch, verify and unpack them; README.md has the usage."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.provision.apt import Mirror, machine_mirrors, require_apt
from tools.provision.archive import Archive, Request, lock_text, locked_debs
from tools.provision.cache import (
    NotOfferedError,
    ProvisionError,
    cache_root,
    lock,
    say,
    staged,
    write_whole,
)
from tools.provision.unpack import make_links_relative, unpack

NOT_OFFERED = 3  # the exit code of --if-offered; 1 is any failure, 2 wrong usage


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        require_apt()
        mirrors = [Mirror(options.mirror, options.keyring)] if options.mirror else machine_mirrors()
        options.run(options, Archive(cache_root() / "debian", mirrors))
    except ProvisionError as error:
        say(f"error: {error}")
        has_another_way = options.if_offered and isinstance(error, NotOfferedError)
        return NOT_OFFERED if has_another_way else 1
    return 0


def run_resolve(options: argparse.Namespace, archive: Archive) -> None:
    request = _request(options)
    write_whole(options.output, lock_text(request, archive.resolve(request, refresh=True)))


def run_unpack(options: argparse.Namespace, archive: Archive) -> None:
    output = options.output.absolute()
    name = hashlib.sha256(str(output).encode()).hexdigest()[:16]
    with lock(cache_root() / "debian" / "locks" / name, f"unpacking into {output}"):
        if output.exists():
            raise ProvisionError(f"{output} already exists: remove it, or choose another folder")
        packages = _packages(options, archive)
        with staged(output) as root:
            unpack(packages, root)
            if options.links == "relative":
                make_links_relative(root)


def _packages(options: argparse.Namespace, archive: Archive) -> list[Path]:
    if options.lock:
        debs = locked_debs(options.lock)
        return archive.locked_files(debs, f"fetching the packages of {options.lock.name}")
    request = _request(options)
    return archive.files(request, f"fetching {', '.join(request.packages)}", options.refresh)


def _request(options: argparse.Namespace) -> Request:
    if not options.suite or not options.packages:
        raise ProvisionError("say which packages: --suite and --packages, or --lock")
    return Request(options.suite, options.packages, options.closure, options.without)


def _parser() -> argparse.ArgumentParser:
    wanted = argparse.ArgumentParser(add_help=False)
    wanted.add_argument("--suite", help="Debian release, for example bookworm")
    wanted.add_argument("--packages", type=_names, help="separated by commas: name or name=version")
    wanted.add_argument("--closure", action="store_true", help="also all that they depend on")
    wanted.add_argument("--without", type=_names, default=(), help="patterns to leave out of it")
    wanted.add_argument(
        "--if-offered",
        action="store_true",
        help=f"exit with {NOT_OFFERED} where apt's sources do not offer them",
    )
    wanted.add_argument("--mirror", help="instead of the machine's own mirrors")
    wanted.add_argument("--keyring", type=Path, help="whose signature counts at --mirror")

    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser("resolve", parents=[wanted], help="write a lock of exact files")
    add.add_argument("--output", type=Path, required=True, help="the lock file to write")
    add.set_defaults(run=run_resolve)
    add = commands.add_parser("unpack", parents=[wanted], help="make a folder of the files")
    add.add_argument("--lock", type=Path, help="a file that `resolve` wrote")
    add.add_argument("--refresh", action="store_true", help="ask the mirror for newer versions")
    add.add_argument(
        "--links",
        choices=("relative", "keep"),
        default="relative",
        help="absolute links lead into the folder (to run from it), or stay (to make an image)",
    )
    add.add_argument("--output", type=Path, required=True, help="the folder to make")
    add.set_defaults(run=run_unpack)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
    sys.exit(main())
