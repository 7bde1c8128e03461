"""serve/telemetry/logs.py: lines of JSON into which no caller can write a line."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.exchange import Exchange
from serve.settings import Settings
from serve.telemetry.logs import (
    AccessLog,
    JsonFormatter,
    RepetitionFilter,
    TextFormatter,
    log_to_stderr,
)


@pytest.fixture(autouse=True)
def restored_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: str = "it happened", **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("serve.test", logging.INFO, __file__, 1, message, (), None)
    vars(made).update(fields)
    return made


def test_a_record_is_one_object_with_its_fields() -> None:
    told = json.loads(JsonFormatter().format(record(elapsed_ms=1.5, request_id="ab" * 16)))
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "info",
        "logger": "serve.test",
        "message": "it happened",
        "elapsed_ms": 1.5,
        "request_id": "ab" * 16,
        "trace_id": "ab" * 16,
    }


@given(st.text(st.characters(codec=None), max_size=50), st.text(max_size=50))
def test_no_text_makes_a_line_of_its_own_or_controls_a_terminal(value: str, message: str) -> None:
    for formatter in (JsonFormatter(), TextFormatter()):
        line = formatter.format(record(message, path=value, level="fake", time="fake"))
        assert len(line.splitlines()) <= 1
        assert not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in line)
    told = json.loads(JsonFormatter().format(record(message, path=value, level="fake")))
    assert (told["message"], told["level"]) == (message, "info")


def test_an_exception_is_a_field_and_its_lines_are_indented_in_text() -> None:
    try:
        raise ValueError("first\nERROR forged: line")
    except ValueError:
        failed = record(exc_info=sys.exc_info())
    told = json.loads(JsonFormatter().format(failed))
    assert told["exception"].startswith("Traceback")
    first, *rest = TextFormatter().format(failed).splitlines()
    assert first == "INFO serve.test: it happened"
    assert rest
    assert all(line.startswith("  ") for line in rest)


def test_a_failing_exporter_says_so_once_in_a_while() -> None:
    now = [0.0]
    repetitions = RepetitionFilter(lambda: now[0])
    failure = record("Failed to export %s batch")
    failure.name = "opentelemetry.exporter"
    assert [repetitions.filter(failure) for _ in range(3)] == [True, False, False]
    now[0] = 301.0
    assert repetitions.filter(failure)
    assert all(repetitions.filter(record()) for _ in range(3))


@pytest.mark.parametrize(
    ("log_format", "first"), [("", "{"), ("json", "{"), ("text", "INFO serve.test: hello n=1")]
)
def test_the_format_is_a_setting(log_format: Any, first: str) -> None:
    stream = io.StringIO()
    log_to_stderr(Settings(cpus=1, log_format=log_format), stream)
    logging.getLogger("serve.test").info("hello", extra={"n": 1})
    logging.getLogger("serve.test").debug("hidden")
    assert stream.getvalue().startswith(first)
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize(("errors_only", "levels"), [(True, [30, 30]), (False, [20, 20, 30, 30])])
def test_requests_have_a_line_each_or_only_failures(
    errors_only: bool, levels: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = AccessLog(errors_only)
    for status in (200, 404, 503, 0):
        exchange = Exchange(None)
        exchange.status = status
        log(exchange, "GET", "/x" * 500)
    assert [one.levelno for one in caplog.records] == levels
    assert all(len(vars(one)["path"]) == 256 for one in caplog.records)


def test_callers_who_leave_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(None)
    exchange.error = "client-left"
    with caplog.at_level(logging.INFO):
        AccessLog(errors_only=True)(exchange, "POST", "/predict")
        assert caplog.records == []
        AccessLog(errors_only=False)(exchange, "POST", "/predict")
        assert [record.levelname for record in caplog.records] == ["INFO"]
