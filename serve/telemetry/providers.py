"""OpenTelemetry's SDK with OTLP exporters over HTTP: 0.3 s to import."""

import math
import os
import time
import uuid
from collections.abc import Mapping
from itertools import repeat

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from serve.telemetry.choices import Choices
from serve.telemetry.worker import Worker

SCOPE = "kiln"


class Providers:
    """One instance of the service as collectors see it."""

    def __init__(self, choices: Choices, facts: Mapping[str, str]) -> None:
        # Values of OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win over these.
        instance = {"service.instance.id": str(uuid.UUID(bytes=os.urandom(16), version=4))}
        self.resource = Resource({**facts, **instance}).merge(Resource.create())
        self._workers: list[Worker] = []
        readers = []
        if "metrics" in choices.signals:
            reader = PeriodicExportingMetricReader(OTLPMetricExporter(), math.inf)
            readers = [reader]
            interval_s = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or 60_000) / 1e3
            self._workers.append(Worker("metrics", lambda: _collect(reader), interval_s))
        self._meters = MeterProvider(readers, self.resource, shutdown_on_exit=False)
        self.meter: Meter = self._meters.get_meter(SCOPE)

    def flush(self, deadline_s: float) -> bool:
        """Exports everything in so much time, all signals at once."""
        end = time.monotonic() + deadline_s
        tickets = [worker.ask() for worker in self._workers]
        return all(map(Worker.wait, self._workers, tickets, repeat(end)))

    def close(self, deadline_s: float) -> None:
        """Flushes, then ends."""
        self.flush(deadline_s)
        self.abandon()

    def abandon(self) -> None:
        """Ends without waiting for anything."""
        for worker in self._workers:
            worker.stop()


def _collect(reader: PeriodicExportingMetricReader) -> bool:
    reader.collect()
    return True
