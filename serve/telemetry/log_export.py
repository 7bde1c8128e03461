"""Exports log records over OTLP; imported at the first record."""

import logging
from collections.abc import Sequence

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from serve.telemetry.logs import facts_of
from serve.telemetry.transport import Transport

_SEVERITIES = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


class LogExport:
    """Converts Python's log records to OpenTelemetry's and exports them."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource, self._scope = resource, scope
        self._exporter = OTLPLogExporter(_transport=Transport("LOGS"))
        self.shutdown = self._exporter.shutdown

    def export(self, records: Sequence[logging.LogRecord]) -> bool:
        """Whether the collector accepted them."""
        result = self._exporter.export([self.convert(record) for record in records])
        return result is LogRecordExportResult.SUCCESS

    def convert(self, record: logging.LogRecord) -> ReadableLogRecord:
        """The record, with its trace if it names one."""
        facts = facts_of(record)
        converted = LogRecord(
            timestamp=int(record.created * 1e9),
            observed_timestamp=int(record.created * 1e9),
            context=_context(facts.get("trace_id")),
            severity_text=record.levelname,
            severity_number=_SEVERITIES.get(record.levelno, SeverityNumber.UNSPECIFIED),
            body=facts.pop("message"),
            attributes={name: _plain(value) for name, value in facts.items()},
        )
        return ReadableLogRecord(converted, self._resource, self._scope)


def _plain(value: object) -> str | bool | int | float:
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def _context(trace_id: object) -> Context:
    if not isinstance(trace_id, str):
        return Context()
    # The span id is not known here, and an invalid one would drop the trace id.
    span = SpanContext(int(trace_id, 16), 0, False, TraceFlags(0))
    return set_span_in_context(NonRecordingSpan(span), Context())
