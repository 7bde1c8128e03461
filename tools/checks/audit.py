"""Checks packages for known vulnerabilities, those of the locks or those of the image.

  bazel run //tools:audit           every package of the locks, by pip-audit
  bazel run //tools:audit_image     the image's bill of materials, Python and Debian, by OSV

Only package names and versions are sent. Accepted advisories are in tools/checks/accepted.toml,
with a reason and an expiry date. Not a test, because the result changes daily and depends on the
network; the workflow `security` runs it every day.

Exit codes: 0 nothing known, 1 vulnerable packages, 2 bad input, 3 the service did not report on
every package, so nothing is known about the rest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from common.command_line import command_parser
from common.files import workspace_folder
from common.programs import python_environment

ACCEPTED = "tools/checks/accepted.toml"


class AcceptedError(Exception):
    """The file is invalid; the message says where."""


def read_accepted(text: str, today: date) -> dict[str, str]:
    """Advisory → reason, for entries that have not expired.

    Raises:
        AcceptedError: an entry does not have the form described at the top of the file.
    """
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise AcceptedError(f"{ACCEPTED} is not TOML: {exc}") from exc
    reasons = {}
    for advisory, entry in entries.items():
        match entry:
            case {"reason": str(reason), "until": date() as until} if reason.strip():
                if today <= until:
                    reasons[advisory] = reason
            case _:
                form = 'reason = "…" and until = 2027-01-31'
                raise AcceptedError(f"{ACCEPTED}: {advisory} needs {form}")
    return reasons


LOCKS = (
    "requirements_lock.txt",
    "serve/score/requirements_lock.txt",
    "tools/checks/requirements_lock.txt",
)
VULNERABLE, BAD_INPUT, NOT_ASKED = 1, 2, 3  # exit codes


class AuditError(Exception):
    """The service gave no report; the message says why."""


@dataclass(frozen=True)
class Vulnerability:
    """An advisory on a pinned package; `accepted` is the reason for accepting it, if any."""

    lock: str
    package: str
    version: str
    advisory: str
    fixed_in: tuple[str, ...]
    accepted: str | None


@dataclass(frozen=True)
class Audit:
    """The service's report on one lock."""

    lock: str
    asked: int
    unanswered: tuple[str, ...]
    vulnerabilities: tuple[Vulnerability, ...]


def audit(lock: Path, name: str, service: Sequence[str], accepted: Mapping[str, str]) -> Audit:
    """Audits one lock.

    Raises:
        AuditError: pip-audit gave no report, for instance because the service is unreachable.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--disable-pip"]
    command += ["--require-hashes", "--format=json", "--progress-spinner=off", *service]
    done = subprocess.run(command, capture_output=True, text=True, env=python_environment())
    try:
        report = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines()
        raise AuditError(f"{name}: {lines[-1] if lines else 'pip-audit said nothing'}") from None
    return Audit(
        name,
        asked=len(report),
        unanswered=tuple(entry["name"] for entry in report if "skip_reason" in entry),
        vulnerabilities=tuple(_vulnerabilities(name, report, accepted)),
    )


def _vulnerabilities(
    lock: str, report: Sequence[Mapping[str, Any]], accepted: Mapping[str, str]
) -> Iterator[Vulnerability]:
    for package in report:
        for found in package.get("vulns", ()):
            names = [found["id"], *found.get("aliases", ())]
            reason = next((accepted[name] for name in names if name in accepted), None)
            fixed = tuple(found.get("fix_versions", ()))
            yield Vulnerability(
                lock, package["name"], package["version"], found["id"], fixed, reason
            )


def audit_locks(options: argparse.Namespace, workspace: Path, accepted: Mapping[str, str]) -> int:
    """Audits the locks and reports; returns the exit code."""
    service = ["--vulnerability-service", options.service]
    service += ["--osv-url", options.osv_url] if options.osv_url else []
    audits = [audit(workspace / lock, lock, service, accepted) for lock in options.lock or LOCKS]
    if options.json:
        print(json.dumps([asdict(one) for one in audits], indent=2))
    else:
        _tell(audits, options.service)
    return exit_code(audits)


def exit_code(audits: Sequence[Audit]) -> int:
    """A known vulnerability takes precedence over a package without a report."""
    if any(found.accepted is None for one in audits for found in one.vulnerabilities):
        return VULNERABLE
    return NOT_ASKED if any(one.unanswered for one in audits) else 0


def _tell(audits: Sequence[Audit], service: str) -> None:
    for one in audits:
        for found in one.vulnerabilities:
            fixed = f", fixed in {', '.join(found.fixed_in)}" if found.fixed_in else ", no fix yet"
            note = f" (accepted: {found.accepted})" if found.accepted else ""
            print(f"{one.lock}: {found.package} {found.version}: {found.advisory}{fixed}{note}")
        known, silent = len(one.vulnerabilities) or "no", len(one.unanswered)
        print(f"audit: {one.lock}: {known} vulnerabilities in {one.asked - silent} packages")
        if silent:
            print(f"audit: {one.lock}: no answer about {silent} packages: is {service} in reach?")


# --- The image's bill of materials ---------------------------------------------------------------

OSV = "https://api.osv.dev/v1/querybatch"
BATCH = 500  # OSV's batch limit is a thousand
_PATIENCE_S = 60


@dataclass(frozen=True)
class Known:
    """An advisory on a package of the image; `accepted` is the reason for accepting it, if any."""

    package: str
    advisory: str
    accepted: str | None


def audit_image(options: argparse.Namespace, accepted: Mapping[str, str]) -> int:
    """Audits the bill of materials and reports; returns the exit code."""
    urls = package_urls(json.loads(options.sbom.read_text(encoding="utf-8")))
    found = list(advisories(urls, options.osv_url or OSV, accepted))
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        for one in found:
            note = f" (accepted: {one.accepted})" if one.accepted else ""
            print(f"{one.package}: {one.advisory}{note}")
        print(f"audit: {len(found) or 'no'} advisories about {len(urls)} packages of the image")
    return VULNERABLE if any(one.accepted is None for one in found) else 0


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
        AuditError: it is unreachable, or its response is malformed.
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
        raise AuditError(str(getattr(error, "reason", error))) from error
    if len(results) != len(queries):
        raise AuditError(f"{len(results)} answers to {len(queries)} questions")
    return results


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    workspace = workspace_folder()
    try:
        text = (workspace / ACCEPTED).read_text(encoding="utf-8")
        accepted = read_accepted(text, datetime.now(UTC).date())
        if options.sbom:
            return audit_image(options, accepted)
        return audit_locks(options, workspace, accepted)
    except AuditError as error:
        service = "osv" if options.sbom else options.service
        print(f"audit: {service} could not be asked: {error}", file=sys.stderr)
        return NOT_ASKED
    except (OSError, ValueError, AcceptedError) as error:
        print(f"audit: {error}", file=sys.stderr)
        return BAD_INPUT


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:audit", __doc__)
    parser.add_argument("--sbom", type=Path, help=argparse.SUPPRESS)  # by //tools:audit_image
    parser.add_argument("--lock", action="append", help="default: all locks of the workspace")
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi", help="for locks")
    parser.add_argument("--osv-url", "--osv", metavar="URL", help="another server with OSV's API")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
