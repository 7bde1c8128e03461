"""SnapStart: a hundred copies of one snapshot, whose clocks are two hours ahead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.serve.aws_lambda import copies
from tests.serve.serving import MODEL
from tests.serve.telemetry.receiver import Receiver, attributes, receiving

COPIES = 100
SERVER = 2  # the kind of a span


class Lives(NamedTuple):
    """What the copies said, and what the collector heard of them and of the original."""

    said: list[dict[str, Any]]
    heard: Receiver


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    with receiving() as receiver:
        environment = {
            "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1",
            "KILN_DRIFT_RATE": "0",  # its thread is in a snapshot, and not in a fork
            "KILN_MODEL": str(MODEL.absolute()),
            "KILN_DEADLINE_MS": "60000",
            "KILN_FLUSH_MS": "20000",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_TRACES_SAMPLER": "always_on",
            "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
            "PATH": os.defpath,
            "HOME": str(tmp_path_factory.mktemp("home")),
        }
        said = subprocess.run(
            [sys.executable, copies.__file__, str(COPIES)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
    found = [json.loads(line) for line in said.splitlines() if line.startswith('{"restored_ns"')]
    return Lives(found, receiver)


def all_different(values: Iterable[object], count: int) -> bool:
    found = list(values)
    return len(found) == len(set(found)) == count


def spans(request: Any) -> list[Any]:
    groups = getattr(request, "resource_spans", ())
    return [span for group in groups for scope in group.scope_spans for span in scope.spans]


def instances(request: Any) -> set[str]:
    for kind in ("resource_spans", "resource_metrics", "resource_logs"):
        if groups := getattr(request, kind, ()):
            return {attributes(group.resource)["service.instance.id"] for group in groups}
    return set()


def test_each_copy_answers_under_ids_of_its_own(lives: Lives) -> None:
    assert [one["statuses"] for one in lives.said] == [[200] * copies.CALLS] * COPIES
    ids = [identity for one in lives.said for identity in one["request_ids"]]
    assert all_different(ids, COPIES * copies.CALLS)


@pytest.mark.parametrize("generator", ["random", "numpy"])
def test_each_copy_draws_numbers_of_its_own(lives: Lives, generator: str) -> None:
    assert all_different((one[generator] for one in lives.said), COPIES)


def test_each_copy_is_an_instance_of_its_own_with_spans_of_its_own(lives: Lives) -> None:
    heard = [request for _, request in lives.heard.by_connection]
    named = [instances(request) for request in heard]
    assert all(len(one) == 1 for one in named)
    assert len(set[str]().union(*named)) == COPIES + 1  # and the original
    assert all_different((span.span_id for span in lives.heard.spans()), len(lives.heard.spans()))
    roots = [span.trace_id.hex() for span in lives.heard.spans() if span.kind == SERVER]
    ids = {identity for one in lives.said for identity in one["request_ids"]}
    assert all_different(roots, 1 + COPIES * copies.CALLS)  # the warm-up was the original's
    assert ids < set(roots)


def test_no_connection_of_the_original_is_used_by_a_copy(lives: Lives) -> None:
    users: dict[int, set[str]] = {}
    for connection, request in lives.heard.by_connection:
        users.setdefault(connection, set()).update(instances(request))
    assert all(len(one) == 1 for one in users.values())


def test_what_a_copy_tells_begins_when_it_was_restored(lives: Lives) -> None:
    """Neither two hours of the snapshot, nor the calls of another, are in its metrics."""
    first = min(one["restored_ns"] for one in lives.said)
    told: dict[str, tuple[int, int]] = {}
    for _, request in lives.heard.by_connection:
        for span in spans(request):
            is_original = span.start_time_unix_nano < first
            assert is_original == (span.end_time_unix_nano < first)
        for group in getattr(request, "resource_metrics", ()):
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == "http.server.request.duration":
                        (point,) = metric.histogram.data_points
                        (instance,) = instances(request)
                        told[instance] = (point.start_time_unix_nano, point.count)
    counts = sorted(count for start, count in told.values() if start >= first)
    assert counts == [copies.CALLS] * COPIES
    assert len(told) == COPIES + 1
