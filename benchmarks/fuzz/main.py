"""Fuzzes the real server with requests that its OpenAPI document allows and forbids, and with
damaged images; or parsers of untrusted bytes, guided by coverage; or damages model files.

    bazel run //serve:fuzz                          # 20,000 requests
    bazel run //serve:fuzz -- --cases 2000 --seed 7
    bazel run //serve:fuzz -- --json fuzz.json
    bazel run //serve:fuzz -- codec --time 10m      # or small_png, bodies, http_protocol,
                                                    # inference, feedback, captures
    bazel run //serve:fuzz -- models                # 10,000 damaged model files

Every response must be documented: its status, type, headers and body. No response may be a server
error, forbidden requests must be rejected, and intact images must be predicted. Schemathesis
generates and checks the requests. Equal seeds send equal requests; failures are minimised and
printed as curl commands. Exit code 1: something failed, or the server logged a complaint.

In guided mode, atheris mutates small seeds that the project generates and keeps those that reach
new code: no input may raise anything but the documented errors, take 10 s or 1 GB, or be parsed in
two ways. Failures are written to --found; kept in benchmarks/fuzz/kept/TARGET/, they are regression
tests. --corpus continues from earlier runs.

Models are damaged in their bytes and metadata, half of them with recomputed digests, as in an
attack. Each must be rejected with its error, or predict as before.
"""

import argparse
import json
import re
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

from benchmarks.fuzz.guided import TARGETS, Guided, run_guided
from benchmarks.fuzz.models import load_damaged
from benchmarks.fuzz.requests import Family, Request, families
from benchmarks.load.servers import ServerFailed, at_least, interruptible, running, service
from common.command_line import command_parser, count
from common.files import user_path, write_whole
from common.model.artifact import ArtifactError
from common.terminal import Progress, terminal
from serve.inference.model_path import model_path, read_model
from serve.settings import Settings

_CHECKS = (
    "not_a_server_error",
    "positive_data_acceptance",
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
_SERVICE, _MODELS = "service", "models"
_CASES = {_SERVICE: 20_000, _MODELS: 10_000}
_BUNDLED = ("ml/bundled/model.onnx", "ml/bundled/model.int8.onnx")


@dataclass
class Findings:
    """What was sent, the responses, and failures."""

    cases: int = 0
    by_family: dict[str, int] = field(default_factory=dict)
    by_status: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)  # each with a command that reproduces it
    complaints: list[str] = field(default_factory=list)  # in the server's log

    @property
    def hold(self) -> bool:
        """Whether nothing failed."""
        return not self.failures and not self.complaints


def fuzz(base_url: str, cases: int, start: int, progress: Progress) -> Findings:
    """Sends at least `cases` requests to a server that serves its own document.

    Args:
        start: the seed.
        progress: advanced with every case.
    """
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    checks = [check for check in CHECKS.get_all() if check.__name__ in _CHECKS]
    fuzzer = _Fuzzer(base_url, checks, progress)
    # The last family is unlimited; others may run out of distinct cases.
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
        """Sends `cases` requests of one kind, or until one fails, which is then minimised."""

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
        checks = [check for check in self._checks if _applies(check, request)]
        if request.statuses:
            checks.append(_expects(request))
        case.validate_response(response, checks=checks)


def _applies(check: Callable[..., Any], request: Request) -> bool:
    # In a form every value is text: much of what violates the schema is valid once sent. In a batch
    # an invalid image fails alone, in a response of 200. Image bytes are not JSON, and violate
    # every schema.
    is_form = request.case.media_type == "multipart/form-data"
    is_batch = request.case.path == "/predict/batch"
    is_right = request.statuses == frozenset({200})
    return not ((is_form or is_batch or is_right) and check.__name__ == "negative_data_rejection")


def _expects(request: Request) -> Callable[[CheckContext, Response, Case[Any]], None]:
    def expected_status(_: CheckContext, response: Response, __: Case[Any]) -> None:
        expected = sorted(request.statuses or ())
        if response.status_code not in expected:
            raise AssertionError(f"answered {response.status_code}, expected one of {expected}")

    return expected_status


def main() -> int:
    """Runs, prints, writes; 0: all documented, 1: failures, 2: could not start."""
    options = _options()
    try:
        if options.target == _SERVICE:
            return _fuzz_service(options)
        if options.target == _MODELS:
            return _fuzz_models(options)
        return _fuzz_guided(options)
    except (ArtifactError, ServerFailed) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2


def _fuzz_service(options: argparse.Namespace) -> int:
    path = user_path(options.model) if options.model else model_path(Settings())
    read_model(path)
    with (
        Progress("fuzzing", options.cases) as progress,
        # Drift is ignored, since noise is no usual traffic.
        running(
            service(path, 1, KILN_LOG_LEVEL="warning", KILN_DRIFT_RATE="0"), "/ready", None
        ) as server,
    ):
        url = f"http://127.0.0.1:{server.port}"
        findings = fuzz(url, options.cases, options.seed, progress)
        findings.complaints = server.said().splitlines()
    _show(findings)
    _write(options, {"seed": options.seed, "holds": findings.hold, **asdict(findings)})
    return 0 if findings.hold else 1


def _fuzz_models(options: argparse.Namespace) -> int:
    models = [user_path(options.model)] if options.model else [Path(one) for one in _BUNDLED]
    for path in models:
        read_model(path)
    with Progress("loading damaged models", options.cases) as progress:
        damaged = load_damaged(models, options.cases, options.seed, progress)
    table = Table(title=f"{damaged.files:,} damaged model files")
    outcomes = sorted({outcome for found in damaged.outcomes.values() for outcome in found})
    table.add_column("damage")
    for outcome in outcomes:
        table.add_column(outcome, justify="right")
    for name, found in damaged.outcomes.items():
        table.add_row(name, *(f"{found.get(outcome, 0):,}" for outcome in outcomes))
    console = terminal(100)
    console.print(table)
    for failure in damaged.failures:
        console.print(failure, markup=False, highlight=False)
    console.print(f"{len(damaged.failures)} failures")
    _write(options, {"seed": options.seed, "holds": damaged.holds, **asdict(damaged)})
    return 0 if damaged.holds else 1


def _fuzz_guided(options: argparse.Namespace) -> int:
    corpus = user_path(options.corpus) if options.corpus else None
    with Progress(f"fuzzing {options.target}", options.runs or None) as progress:
        guided = run_guided(
            TARGETS[options.target],
            seconds=options.time,
            runs=options.runs,
            seed=options.seed,
            corpus=corpus,
            progress=progress,
        )
    _show_guided(guided)
    for name, data in guided.found.items():
        path = user_path(options.found) / name
        write_whole(path, data)
        sys.stderr.write(f"kiln: wrote {path}\n")
    document = asdict(guided) | {"found": [*guided.found], "holds": guided.holds}
    _write(options, {"seed": options.seed, **document})
    return 0 if guided.holds else 1


def _show_guided(guided: Guided) -> None:
    console = terminal(100)
    console.print(
        f"{guided.runs:,} runs; edges reached: {guided.first_coverage:,} by the seeds, "
        f"{guided.coverage:,} by {guided.corpus:,} inputs; {guided.peak_mb:,} MB"
    )
    if guided.found:
        console.print(guided.said, markup=False, highlight=False)
    console.print(f"{len(guided.found)} failures")


def _write(options: argparse.Namespace, document: dict[str, Any]) -> None:
    if options.json:
        target = user_path(options.json)
        write_whole(target, json.dumps(document, indent=2).encode() + b"\n")
        sys.stderr.write(f"kiln: wrote {target}\n")


def _show(findings: Findings) -> None:
    console = terminal(100)
    table = Table(title=f"{findings.cases:,} requests")
    table.add_column("kind")
    table.add_column("sent", justify="right")
    for name, sent in findings.by_family.items():
        table.add_row(name, f"{sent:,}")
    console.print(table)
    statuses = ", ".join(f"{status}: {n:,}" for status, n in sorted(findings.by_status.items()))
    console.print(f"answers by status: {statuses}")
    wrong = [*findings.failures, *findings.complaints]
    for one in wrong:
        console.print(one, markup=False, highlight=False)
    console.print(f"{len(wrong)} failures")


def _options() -> argparse.Namespace:
    parser = command_parser("//serve:fuzz", __doc__)
    add = parser.add_argument
    add(
        "target",
        nargs="?",
        choices=(_SERVICE, *TARGETS, _MODELS),
        default=_SERVICE,
        help="the whole service (default), a coverage-guided target, or model files",
    )
    add("--model", type=Path, help="default: the built-in one, or both bundled")
    add("--cases", type=count, help="number of requests (20,000), or models (10,000)")
    add("--seed", type=int, default=0, help="seed of the requests (0)")
    add("--json", type=Path, help="write the findings to this file")
    guided = parser.add_argument_group("under guidance")
    guided.add_argument("--time", type=_seconds, default=60, metavar="10m", help="time limit (60s)")
    guided.add_argument("--runs", type=at_least(0), default=0, help="limit of runs (no limit)")
    guided.add_argument("--corpus", type=Path, help="folder of inputs to read and extend")
    guided.add_argument(
        "--found", type=Path, default=Path("fuzz-found"), help="folder for failures (fuzz-found)"
    )
    options = parser.parse_args()
    options.cases = options.cases or _CASES.get(options.target, 0)
    return options


def _seconds(text: str) -> int:
    span = re.fullmatch(r"([1-9][0-9]{0,5})(s|m|h)", text)
    if span is None:
        raise argparse.ArgumentTypeError(f"expected a time as 90s, 10m or 2h, got {text}")
    return int(span[1]) * {"s": 1, "m": 60, "h": 3600}[span[2]]


if __name__ == "__main__":
    sys.exit(interruptible(main))
