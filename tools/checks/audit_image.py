"""Checks the image's bill of materials against OSV: `bazel run //tools:audit_image`.

Covers Python and Debian packages by their package URLs. Accepted advisories are those of `bazel run
//tools:audit`, tools/checks/accepted.toml.

Exit codes: 0 nothing known, 1 vulnerable packages, 2 bad input, 3 OSV did not answer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from common.command_line import command_parser
from common.files import workspace_folder
from tools.checks.audit import ACCEPTED, AcceptedError, read_accepted

OSV = "https://api.osv.dev/v1/querybatch"
BATCH = 500  # OSV's batch limit is a thousand
VULNERABLE, BAD_INPUT, NOT_ASKED = 1, 2, 3  # exit codes
_PATIENCE_S = 60


class NotAsked(Exception):
    """OSV gave no report; the message says why."""


@dataclass(frozen=True)
class Known:
    """An advisory on a package of the image; `accepted` is the reason for accepting it, if any."""

    package: str
    advisory: str
    accepted: str | None


def package_urls(bill: Mapping[str, Any]) -> list[str]:
    """The package URLs of all components, nested ones included."""
    found = []
    for component in bill.get("components", ()):
        if url := component.get("purl"):
            found.append(str(url))
        found += package_urls(component)
    return sorted(set(found))


def advisories(urls: Sequence[str], osv: str, accepted: Mapping[str, str]) -> Iterator[Known]:
    """OSV's advisories on the packages.

    Raises:
        NotAsked: it is unreachable, or its response is malformed.
    """
    for start in range(0, len(urls), BATCH):
        batch = urls[start : start + BATCH]
        answers = _ask(osv, [{"package": {"purl": url}} for url in batch])
        for url, answer in zip(batch, answers, strict=True):
            for found in answer.get("vulns", ()):
                yield Known(url, found["id"], accepted.get(found["id"]))


def _ask(osv: str, queries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    body = json.dumps({"queries": queries}).encode()
    request = Request(osv, body, {"Content-Type": "application/json"})  # noqa: S310 # ours or --osv
    try:
        with urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310 # of our own or --osv
            results: list[dict[str, Any]] = json.load(answer)["results"]
    except (URLError, TimeoutError, OSError, ValueError, KeyError) as error:
        raise NotAsked(str(getattr(error, "reason", error))) from error
    if len(results) != len(queries):
        raise NotAsked(f"{len(results)} answers to {len(queries)} questions")
    return results


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    workspace = workspace_folder()
    try:
        urls = package_urls(json.loads(options.sbom.read_text(encoding="utf-8")))
        text = (workspace / ACCEPTED).read_text(encoding="utf-8")
        accepted = read_accepted(text, datetime.now(UTC).date())
        found = list(advisories(urls, options.osv, accepted))
    except NotAsked as error:
        print(f"audit: OSV could not be asked: {error}", file=sys.stderr)
        return NOT_ASKED
    except (OSError, ValueError, AcceptedError) as error:
        print(f"audit: {error}", file=sys.stderr)
        return BAD_INPUT
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        for one in found:
            note = f" (accepted: {one.accepted})" if one.accepted else ""
            print(f"{one.package}: {one.advisory}{note}")
        print(f"audit: {len(found) or 'no'} advisories about {len(urls)} packages of the image")
    return VULNERABLE if any(one.accepted is None for one in found) else 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:audit_image", __doc__)
    parser.add_argument("--sbom", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument(
        "--osv", default=OSV, metavar="URL", help="address of the service (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
