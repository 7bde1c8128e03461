"""Scans all files that git tracks or would track for secrets, by `bazel run //tools:secrets`.

detect-secrets finds keys by their form, passwords by variable names, and strings with high entropy;
tools/image/inspection.py has the patterns that must not be in the image either. A false positive is
excused on its line, with a reason of two words or more:

    KEY = "0123…"  # pragma: allowlist secret: made up for a server of the test's own

Old versions of files cannot be edited: false positives in history are listed in
tools/checks/history.toml.

Exit codes: 0 nothing found, 1 a secret or an excuse without a reason, 2 bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from detect_secrets.__version__ import VERSION
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import get_settings, transient_settings

from common.command_line import command_parser
from common.files import workspace_folder, write_whole
from common.programs import tracked_files
from tools.image import inspection
from tools.image.inspection import secret_in
from tools.provision.cache import cache_root

LARGEST = 8_000_000  # bytes; our text files are smaller, and models are not text
# Digests have high entropy but are public: excused where the code marks them as such.
_DIGEST = re.compile(
    r"sha-?(?:1|256|384|512)|md5|digest|revision|commit|hash|integrity|trace|version", re.IGNORECASE
)
_ONLY_A_STRING = re.compile(r"""\s*["'][^"']*["'][,)]*\s*""")
_NO_SECRETS = [
    # Placeholders that tests and examples use.
    r"(?i)^(?:test(?:ing)?|secret|password|example|changeit|fake|none|dummy|made-up)$",
    r"^\S+(?: \S+){4,}$",  # sentences
    r"^(?:local|var|data|module)\.[\w.\[\]]+$",  # Terraform references
    r"^arn:",
]
_EXCUSE = re.compile(r"pragma: ?allowlist (?:nextline )?secret(?P<reason>.*)")
_SHORT = 12  # digits that abbreviate a blob
_KNOWN_HISTORY = Path("tools/checks/history.toml")
_NO_EXCUSE = {"tools/checks/secret_scan.py"}  # contains the pragma in order to search for it


@dataclass(frozen=True)
class Finding:
    """Location and kind; never the secret itself, since many people read logs."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def search(files: Iterable[str], clean: set[str]) -> Iterator[Finding]:
    """Possible secrets, and pragmas without a reason.

    Args:
        clean: digests of name and content of files that have none; those found now are added.
    """
    with _settings():
        for file in files:
            content = Path(file).read_bytes()
            digest = hashlib.sha256(f"{file}\0".encode() + content).hexdigest()
            if digest in clean or b"\0" in content[:8192] or len(content) > LARGEST:
                continue
            lines = content.decode(errors="replace").splitlines()
            found = {*_by_form(file, lines), *_ours(file, lines)}
            yield from sorted(found, key=lambda finding: (finding.line, finding.what))
            if not found:
                clean.add(digest)


@contextmanager
def known_clean() -> Iterator[set[str]]:
    """Files in which these very rules found nothing, by digest: kept in Kiln's cache between runs,
    since a scan of all files takes most of a minute."""
    rules = "".join(Path(module).read_text() for module in (__file__, inspection.__file__))
    name = hashlib.sha256(f"{VERSION}\0{rules}".encode()).hexdigest()
    place = cache_root() / "secrets" / name[:16]
    clean = set(place.read_text().split()) if place.is_file() else set()
    before = len(clean)
    yield clean
    if len(clean) > before:
        with suppress(OSError):
            write_whole(place, "\n".join(sorted(clean)))


def _by_form(file: str, lines: Sequence[str]) -> Iterator[Finding]:
    for secret in scan_file(file):
        if "Entropy" not in secret.type or not _DIGEST.search(_naming(lines, secret.line_number)):
            yield Finding(file, secret.line_number, secret.type)


def _naming(lines: Sequence[str], number: int) -> str:
    """The line itself, or the line that opens the list of strings around it."""
    while number > 1 and _ONLY_A_STRING.fullmatch(lines[number - 1]):
        number -= 1
    return lines[number - 1]


def _ours(file: str, lines: Sequence[str]) -> Iterator[Finding]:
    for number, line in enumerate(lines, 1):
        excuse = _EXCUSE.search(line)
        if excuse is None and (reason := secret_in(line.encode())):
            yield Finding(file, number, reason)
        if excuse and len(re.findall(r"\w{2,}", excuse["reason"])) < 2 and file not in _NO_EXCUSE:
            yield Finding(file, number, "excused without a reason")


@contextmanager
def _settings() -> Iterator[None]:
    plugins = get_mapping_from_secret_type_to_class().values()
    filters: list[dict[str, object]] = [{"path": path} for path in get_settings().filters]
    filters.append(
        {"path": "detect_secrets.filters.regex.should_exclude_secret", "pattern": _NO_SECRETS}
    )
    chosen = {
        "plugins_used": [{"name": plugin.__name__} for plugin in plugins],
        "filters_used": filters,
    }
    with transient_settings(chosen):
        yield


def search_history(clean: set[str]) -> Iterator[Finding]:
    """Scans every version of every file in all commits reachable from a branch or tag."""
    listing = ["git", "rev-list", "--objects", "--all", "--filter=object:type=blob"]
    found = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    blobs = [line.partition(" ") for line in found.splitlines() if " " in line]
    known = _known_blobs()
    with tempfile.TemporaryDirectory() as folder:
        for blob, _, name in blobs:
            if blob[:_SHORT] in known:
                continue
            copy = Path(folder, Path(name).name)  # detectors depend on the suffix
            with copy.open("wb") as output:
                subprocess.run(["git", "cat-file", "blob", blob], check=True, stdout=output)
            for finding in search([str(copy)], clean):
                yield replace(finding, file=f"{name} (blob {blob[:_SHORT]})")
            copy.unlink()


def _known_blobs() -> set[str]:
    """Blobs of the history with a reason why they hold no secret."""
    if not _KNOWN_HISTORY.is_file():
        return set()
    reasons = tomllib.loads(_KNOWN_HISTORY.read_text(encoding="utf-8"))
    for blob, reason in reasons.items():
        if not re.fullmatch(rf"[0-9a-f]{{{_SHORT}}}", blob) or len(str(reason).split()) < 2:
            raise ValueError(
                f"{_KNOWN_HISTORY}: {blob} = {reason!r}: expected {_SHORT} hexadecimal digits of a "
                "blob, and a reason of two words or more"
            )
    return set(reasons)


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    try:
        os.chdir(workspace_folder())
        files = options.files or ([] if options.history else tracked_files())
        with known_clean() as clean:
            findings = list(search_history(set()) if options.history else search(files, clean))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"secrets: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return bool(findings)
    for finding in findings:
        print(finding)
    where = "the history" if options.history else f"{len(files)} files"
    print(f"secrets: {len(findings) or 'nothing'} found in {where}", file=sys.stderr)
    if findings:
        remedy = (
            f'name its blob in {_KNOWN_HISTORY}:\n  0123456789ab = "the reason"'
            if options.history
            else "excuse it on its line:\n  # pragma: allowlist secret: the reason"
        )
        print(
            f"A real one: revoke it first, then remove it. Anything else: {remedy}", file=sys.stderr
        )
    return bool(findings)


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:secrets", __doc__)
    parser.add_argument("files", nargs="*", help="default: all of the workspace")
    parser.add_argument(
        "--history", action="store_true", help="scan every version in git's history instead"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
