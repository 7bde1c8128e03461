"""Checks every package of the locks for known vulnerabilities: `bazel run //tools:audit`.

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


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    workspace = workspace_folder()
    service = ["--vulnerability-service", options.service]
    service += ["--osv-url", options.osv_url] if options.osv_url else []
    try:
        text = (workspace / ACCEPTED).read_text(encoding="utf-8")
        accepted = read_accepted(text, datetime.now(UTC).date())
    except (OSError, AcceptedError) as error:
        print(f"audit: {error}", file=sys.stderr)
        return BAD_INPUT
    try:
        audits = [
            audit(workspace / lock, lock, service, accepted) for lock in options.lock or LOCKS
        ]
    except AuditError as error:
        print(f"audit: {options.service} could not be asked: {error}", file=sys.stderr)
        return NOT_ASKED
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


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:audit", __doc__)
    parser.add_argument("--lock", action="append", help="default: all locks of the workspace")
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi")
    parser.add_argument("--osv-url", help="another server with OSV's API")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
