"""Fuzzes the real server with what its OpenAPI document allows and forbids, and with damaged
images.

    bazel run //serve:fuzz                          # 20,000 requests
    bazel run //serve:fuzz -- --cases 2000 --seed 7
    bazel run //serve:fuzz -- --json fuzz.json

Every answer must be documented: its status, type, headers and body. No answer may be a server
error, what the document forbids must be refused, and a whole image must be answered. Schemathesis
makes and checks the requests. Equal seeds send equal requests; what fails is made small and printed
as a command of curl. Exit code 1: something failed, or the server complained in its log.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.table import Table
from schemathesis import Case, CheckContext, Response
from schemathesis.checks import CHECKS, load_all_checks

from benchmarks.fuzz.requests import Family, Request, families
from benchmarks.load.servers import ServerFailed, at_least, interruptible, running, service
from common.files import user_path, write_whole
from common.model.artifact import ArtifactError
from common.terminal import Progress, terminal
from serve.inference.model_path import model_path, read_model
from serve.settings import Settings

# Not positive_data_acceptance: a string is allowed by the document, and seldom an image.
_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
)
_TIMEOUT_S = 60


@dataclass
class Findings:
    """What was sent and answered, and what was wrong."""

    cases: int = 0
    by_family: dict[str, int] = field(default_factory=dict)
    by_status: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)  # each with a command that repeats it
    complaints: list[str] = field(default_factory=list)  # of the server, in its log

    @property
    def hold(self) -> bool:
        """Whether nothing was wrong."""
        return not self.failures and not self.complaints


def fuzz(base_url: str, cases: int, start: int, progress: Progress) -> Findings:
    """At least so many cases against a server that serves its own document.

    Args:
        start: the seed.
        progress: advances with every case.
    """
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    checks = [check for check in CHECKS.get_all() if check.__name__ in _CHECKS]
    fuzzer = _Fuzzer(base_url, checks, progress)
    # The last family can send as many as there is need for; others may run out of different ones.
    *some, last = families(schema)
    for family in some:
        fuzzer.send(family, max(1, round(family.share * cases)), start)
    fuzzer.send(last, max(1, cases - fuzzer.findings.cases), start)
    return fuzzer.findings


class _Fuzzer:
    def __init__(self, base_url: str, checks: list[Any], progress: Progress) -> None:
        self._base_url, self._checks, self._progress = base_url, checks, progress
        self._session = requests.Session()
        self.findings = Findings()

    def send(self, family: Family, cases: int, start: int) -> None:
        """So many of one kind, or until one fails, which is then made small."""

        @seed(start)
        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(family.requests)
        def each(request: Request) -> None:
            self._try(family.name, request)

        try:
            each()
        except (Exception, BaseExceptionGroup) as exc:
            self.findings.failures.append(f"{family.name}: {exc}")

    def _try(self, name: str, request: Request) -> None:
        case = request.case
        response = case.call(base_url=self._base_url, session=self._session, timeout=_TIMEOUT_S)
        found = self.findings
        found.cases += 1
        found.by_family[name] = found.by_family.get(name, 0) + 1
        status = str(response.status_code)
        found.by_status[status] = found.by_status.get(status, 0) + 1
        self._progress.update(found.cases)
        checks = [check for check in self._checks if _applies(check, case)]
        if request.statuses:
            checks.append(_expects(request))
        case.validate_response(response, checks=checks)


def _applies(check: Callable[..., Any], case: Case[Any]) -> bool:
    # In a form every value is text: much of what breaks the schema is valid once it is sent. In a
    # batch an item that is no image is refused alone, within an answer of 200.
    is_form = case.media_type == "multipart/form-data"
    is_batch = case.path == "/predict/batch"
    return not ((is_form or is_batch) and check.__name__ == "negative_data_rejection")


def _expects(request: Request) -> Callable[[CheckContext, Response, Case[Any]], None]:
    def expected_status(_: CheckContext, response: Response, __: Case[Any]) -> None:
        expected = sorted(request.statuses or ())
        if response.status_code not in expected:
            raise AssertionError(f"answered {response.status_code}, expected one of {expected}")

    return expected_status


def main() -> int:
    """Runs, prints, writes; 0: all is documented, 1: something is not, 2: it could not start."""
    options = _options()
    try:
        path = user_path(options.model) if options.model else model_path(Settings())
        read_model(path)
        with (
            Progress("fuzzing", options.cases) as progress,
            # Noise is no such traffic as the reference knows, so drift is not looked for.
            running(
                service(path, 1, KILN_LOG_LEVEL="warning", KILN_DRIFT_RATE="0"), "/ready", None
            ) as server,
        ):
            url = f"http://127.0.0.1:{server.port}"
            findings = fuzz(url, options.cases, options.seed, progress)
            findings.complaints = server.said().splitlines()
    except (ArtifactError, ServerFailed) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    _show(findings)
    if options.json:
        document = {"seed": options.seed, "holds": findings.hold, **asdict(findings)}
        target = user_path(options.json)
        write_whole(target, json.dumps(document, indent=2).encode() + b"\n")
        sys.stderr.write(f"kiln: wrote {target}\n")
    return 0 if findings.hold else 1


def _show(findings: Findings) -> None:
    console = terminal(100)
    table = Table(title=f"{findings.cases:,} requests")
    table.add_column("kind")
    table.add_column("sent", justify="right")
    for name, count in findings.by_family.items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    statuses = ", ".join(f"{status}: {n:,}" for status, n in sorted(findings.by_status.items()))
    console.print(f"answers by status: {statuses}")
    wrong = [*findings.failures, *findings.complaints]
    for one in wrong:
        console.print(one, markup=False, highlight=False)
    console.print(f"{len(wrong)} failures")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bazel run //serve:fuzz --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="default: the built-in one")
    parser.add_argument("--cases", type=at_least(1), default=20_000, help="how many (20,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests (0)")
    parser.add_argument("--json", type=Path, help="where to write the findings")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(interruptible(main))
