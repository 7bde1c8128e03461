"""The service under load, through the collector, into Prometheus: every query has an answer.

What a dashboard shows and what an alert looks at is asked of a real Prometheus. An expression that
needs a failure nobody can provoke from outside is left to promtool, by name.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from common.programs import require_program
from infra.observability.catalogue import load
from infra.observability.dashboards import dashboards
from infra.observability.rules import rule_file
from infra.observability.stack.local import Ports, Stack, local_stack
from tests.helpers.waiting import wait_until
from tests.infra.observability.receivers import Mailbox, Slack, receivers
from tests.infra.observability.rule_cases import CASES
from tests.serve.server_process import Server, running
from tests.serve.serving import base64_of, image_file, pixels

CATALOGUE = load()
PATIENCE_S = 75.0
PROGRAMS = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter", "vmagent", "bwrap")
# An exception at the top: no caller can make the service raise one.
ONLY_IN_FAILURE = {"InternalErrors"}

Environ = dict[str, str]

_direct = build_opener(ProxyHandler({}))
_image = base64_of(image_file(pixels()))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Slack, Mailbox, Environ]]:
    """Those who are told, and the variables with their addresses."""
    with receivers(tmp_path_factory.mktemp("people")) as found:
        yield found


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, people: tuple[Slack, Mailbox, Environ]
) -> Iterator[Stack]:
    """With a service that answers, one that is overloaded, and a release manager's metrics."""
    for program in PROGRAMS:
        require_program(program)
    with ExitStack() as ends:
        # Not at the usual ports, and rules every second.
        folder = tmp_path_factory.mktemp("stack")
        stack = ends.enter_context(local_stack(folder, people[2], Ports(0, 0, 0), interval_s=1))
        variables = {
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "KILN_ACCESS_LOG": "off",  # a line for each 503 would fill the pipe that nobody reads
            "KILN_CAPTURE": str(folder / "captures"),
            "KILN_CAPTURE_AGE_S": "1",
            "NO_PROXY": "*",
            **stack.environment,
        }
        server = ends.enter_context(running(1, **variables))
        hurried = ends.enter_context(running(1, KILN_DEADLINE_MS="1", **variables))
        ends.enter_context(_release_metrics(stack))
        ends.enter_context(_load(server, images=2))
        # An outage has a length once the service was up, which it is not beside so many failures.
        wait_until(lambda: _ask(stack, "kiln:up:last_seconds"))
        ends.enter_context(_load(hurried, images=100))
        yield stack


@contextmanager
def _load(server: Server, images: int) -> Iterator[None]:
    """Predictions, batches and mistakes, one after the other, until the block ends."""
    done = threading.Event()
    batch = json.dumps({"images": [_image] * (images - 1) + ["?"]}).encode()
    followed = base64_of(image_file(pixels()) + b"preview")
    single = [json.dumps({"image": image}).encode() for image in (_image, followed)]
    requests = [*(("/predict", body) for body in single), ("/predict/batch", batch)]

    def ask() -> None:
        while not done.is_set():
            for path, body in (*requests, ("/predict", b"{")):
                _post(f"http://127.0.0.1:{server.port}{path}", body)
            done.wait(0.2)  # enough for every series, and most of a core is left

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _post(url: str, body: bytes) -> None:
    try:
        with _direct.open(
            Request(url, body, {"content-type": "application/json"}), timeout=60
        ) as answer:
            answer.read()
    except HTTPError as problem:
        problem.read()


@contextmanager
def _release_metrics(stack: Stack) -> Iterator[None]:
    """As infra/release and ml/live send them, by their names and units in the catalogue."""
    exporter = OTLPMetricExporter(f"{stack.otlp}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=1000)
    provider = MeterProvider([reader])
    values = {"step": 2.0, "candidate_weight": 0.1, "verdict": 0.0}
    for metric in CATALOGUE.metrics:
        if metric.owner in ("release", "live"):
            gauge = provider.get_meter(metric.owner).create_gauge(metric.name, metric.unit)
            last = metric.name.rpartition(".")[2]
            gauge.set(values.get(last, 0.94), dict.fromkeys(metric.labels, "7"))
    try:
        yield
    finally:
        provider.shutdown()


def _expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, PromQL without the comparison of an alert)."""
    for dashboard in dashboards(CATALOGUE):
        for panel in dashboard.panels:
            for number, query in enumerate(panel.queries):
                where = f"panel {dashboard.uid}/{panel.title} {number}"
                yield where, dashboard.filled(query.expression)
    for group in rule_file(CATALOGUE)["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                yield f"record {rule['record']} {rule.get('labels', '')}", rule["expr"]
            else:
                for part in _compared(rule["expr"]):
                    yield f"alert {rule['alert']} {part}", part


def _compared(expression: str) -> list[str]:
    """What an alert compares with its limits."""
    is_burn_rate = expression.startswith("(kiln:slo_bad")
    parts = re.split(r" (?:and|or) ", expression) if is_burn_rate else [expression]
    found = [re.sub(r" [<>] [\d.e+-]+\)?$", "", part) for part in parts]
    assert all(one != part for one, part in zip(found, parts, strict=True)), expression
    return [part.removeprefix("(") if is_burn_rate else part for part in found]


EXPRESSIONS: Mapping[str, str] = dict(_expressions())


def _ask(stack: Stack, promql: str) -> list[dict[str, Any]]:
    url = f"{stack.prometheus}/api/v1/query?{urlencode({'query': promql})}"
    try:
        with _direct.open(url, timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except HTTPError as problem:
        raise AssertionError(f"{promql}: {problem.read().decode()}") from problem
    return [one for one in found if one["value"][1] != "NaN"]


def test_every_panel_rule_and_alert_has_data(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = dict(EXPRESSIONS)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        silent = {where: promql for where, promql in silent.items() if not _ask(stack, promql)}
        if not {where for where in silent if where.split()[1] not in ONLY_IN_FAILURE}:
            break
        time.sleep(1)
    left = {where for where in silent if where.startswith("alert ")}
    exercised = {where for where in left if where.split()[1] in ONLY_IN_FAILURE}
    assert set(silent) - exercised == set(), f"no data after {PATIENCE_S:g} s"
    assert {case.alert for case in CASES if case.fires} >= ONLY_IN_FAILURE
    counts = {
        kind: sum(where.startswith(kind) for where in EXPRESSIONS)
        for kind in ("panel", "record", "alert")
    }
    summary = (
        f"{len(EXPRESSIONS)} of {len(EXPRESSIONS)} expressions accounted for: "
        f"{counts['panel']} of panels, {counts['record']} recorded, {counts['alert']} of alerts; "
        f"{len(EXPRESSIONS) - len(exercised)} returned data, {len(exercised)} by promtool alone"
    )
    with capsys.disabled():
        print(f"\n{summary}")


def _value(stack: Stack, promql: str) -> float:
    """Of its only series; 0 while there is none."""
    return sum(float(one["value"][1]) for one in _ask(stack, promql))


def test_what_is_counted_is_what_was_asked(stack: Stack) -> None:
    """A process's first export is not lost, as it would be with `increase`."""
    end = time.time()
    total = "sum(kiln:requests:increase5m)"
    asked = f"sum(http_server_request_duration_seconds_count @ {end:.3f})"
    wait_until(lambda: _value(stack, total) >= _value(stack, asked) > 0, total)


def test_the_overloaded_service_is_seen(stack: Stack) -> None:
    for failed in (
        'sum(kiln:requests:increase5m{http_response_status_code="503"})',
        'kiln:slo_bad:ratio_5m{slo="errors"}',
    ):
        wait_until(partial(_value, stack, failed), failed)


def test_people_are_told_of_it(stack: Stack, people: tuple[Slack, Mailbox, Environ]) -> None:
    slack, mailbox, _ = people
    wait_until(lambda: "PAGE ErrorShare" in slack.titles(), "Slack's message")
    subject = "[kiln] PAGE ErrorShare"
    wait_until(lambda: subject in [mail["Subject"] for _, mail in mailbox.mails], "the mail")
    assert slack.refused == []


def test_the_rules_are_evaluated_without_an_error(stack: Stack) -> None:
    with _direct.open(f"{stack.prometheus}/api/v1/rules", timeout=60) as answer:
        groups = json.load(answer)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
    assert {rule["health"] for rule in rules} == {"ok"}


def test_parts_keep_logs_in_the_folder(stack: Stack) -> None:
    names = {path.stem for path in Path(stack.folder, "logs").glob("*.log")}
    assert names == {"alertmanager", "prometheus", "machine", "vmagent", "collector"}
