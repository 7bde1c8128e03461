"""Structured logging: each record is one JSON line, or text on a terminal.

    logger.info("prediction served", extra={"elapsed_ms": elapsed_ms})

Text from callers stays within an ASCII JSON string: it can neither start a log line nor send escape
sequences to a terminal.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from serve.exchange import Exchange
from serve.settings import Settings
from serve.telemetry.export import ExportQueue

logger = logging.getLogger(__name__)

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "taskName"),
    "color_message",  # uvicorn's colored copy of the message
}
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Loggers that report every attempt to reach a failing collector.
_REPETITIVE = ("opentelemetry.", "serve.telemetry.export", "urllib3.", "requests.")
_QUIET_S = 300.0
_LONGEST_PATH = 256  # characters


def log_to_stderr(settings: Settings, stream: TextIO | None = None) -> None:
    """Sends all log records to standard error: JSON, or text on a terminal."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    as_json = settings.log_format == "json" or (not settings.log_format and not stream.isatty())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(RepetitionFilter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """A record as values: time, severity, logger, message, and its extra fields."""
    fields = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
    facts = fields | {
        "time": _time(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    if "request_id" in fields:
        facts["trace_id"] = fields["request_id"]
    if record.exc_info:
        facts["exception"] = logging.Formatter().formatException(record.exc_info)
    return facts


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of ASCII JSON."""

    def format(self, record: logging.LogRecord) -> str:
        facts = facts_of(record)
        first = {name: facts.pop(name) for name in ("time", "level", "logger", "message")}
        return json.dumps(first | facts, default=str)


class TextFormatter(logging.Formatter):
    """Readable on a terminal; continuation lines are indented."""

    def format(self, record: logging.LogRecord) -> str:
        facts = facts_of(record)
        told = {name: facts.pop(name) for name in ("level", "logger", "message")}
        exception = facts.pop("exception", "")
        for name in ("time", "trace_id"):
            facts.pop(name, None)
        fields = "".join(f" {name}={json.dumps(v, default=str)}" for name, v in facts.items())
        line = f"{told['level'].upper()} {told['logger']}: {told['message']}{fields}"
        lines = [line, *(f"  {one}" for one in exception.split("\n") if one)]
        return "\n".join(_UNSAFE.sub(lambda found: repr(found[0])[1:-1], one) for one in lines)


class RepetitionFilter(logging.Filter):
    """Passes each of the exporters' messages once in five minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_REPETITIVE):
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        if now - self._said.get(key, -_QUIET_S) < _QUIET_S:
            return False
        self._said[key] = now
        return True


class ExportHandler(logging.Handler):
    """Enqueues records for export, except those about exporting."""

    def __init__(self, queue: ExportQueue) -> None:
        super().__init__(logging.INFO)
        self._queue = queue

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(_REPETITIVE):
            self._queue.put([record])


class AccessLog:
    """An `Observer` that logs requests; by default only failures, since a line costs 20 µs."""

    def __init__(self, errors_only: bool) -> None:
        self._errors_only = errors_only

    def __call__(self, exchange: Exchange, method: str, path: str) -> None:
        # A client that disconnects is no failure: many can, and would fill the log.
        failed = exchange.status >= 500 or (not exchange.status and exchange.error != "client-left")
        if self._errors_only and not failed:
            return
        facts: dict[str, object] = {
            "request_id": exchange.request_id,
            "method": method[:_LONGEST_PATH],
            "path": path[:_LONGEST_PATH],
            "status": exchange.status,
            "duration_ms": round((time.perf_counter() - exchange.start) * 1e3, 3),
        }
        if exchange.error:
            facts["error"] = exchange.error
        if exchange.batch:
            facts["batch"] = exchange.batch
        logger.log(logging.WARNING if failed else logging.INFO, "request answered", extra=facts)


def _time(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e6):06d}Z"
