"""The fuzzer: sends cases, checks answers and collects what is wrong."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, CheckContext, Response
from schemathesis.checks import CHECKS, load_all_checks

from benchmarks.fuzz.requests import Family, Request, families

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


def fuzz(base_url: str, cases: int, start: int, say: Callable[[Findings], None]) -> Findings:
    """At least so many cases against a server that serves its own document.

    Args:
        start: the seed.
        say: is told of every case.
    """
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    checks = [check for check in CHECKS.get_all() if check.__name__ in _CHECKS]
    fuzzer = _Fuzzer(base_url, checks, say)
    # The last family can send as many as there is need for; others may run out of different ones.
    *some, last = families(schema)
    for family in some:
        fuzzer.send(family, max(1, round(family.share * cases)), start)
    fuzzer.send(last, max(1, cases - fuzzer.findings.cases), start)
    return fuzzer.findings


class _Fuzzer:
    def __init__(self, base_url: str, checks: list[Any], say: Callable[[Findings], None]) -> None:
        self._base_url, self._checks, self._say = base_url, checks, say
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
        self._say(found)
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
