"""Where telemetry goes on Lambda: to a collector if there is one, else into the log."""

import os
from collections.abc import Mapping

from serve.aws_lambda.embedded_metrics import EmbeddedMetrics
from serve.call import Observer
from serve.contract.artifact import ArtifactMetadata
from serve.drift.attach import watch_traffic
from serve.settings import Settings
from serve.telemetry.telemetry import Telemetry

CLOSE_S = 0.25  # Lambda kills a process 300 ms after SIGTERM


class Outlet:
    """`Telemetry`, with metrics in CloudWatch's embedded format where nothing is exported."""

    def __init__(self, telemetry: Telemetry, embedded: EmbeddedMetrics | None) -> None:
        self._telemetry, self._embedded = telemetry, embedded
        self.observer: Observer = telemetry.observer
        if embedded:
            telemetry.add_observer(embedded)

    @classmethod
    def open(
        cls,
        settings: Settings,
        metadata: ArtifactMetadata,
        environ: Mapping[str, str] = os.environ,
    ) -> "Outlet":
        """As OpenTelemetry's variables have it; `none` as the exporter of metrics means none.

        Raises:
            SettingsError: names every variable that is wrong.
        """
        telemetry = Telemetry.start(settings, metadata, environ)
        drift = watch_traffic(telemetry, settings, metadata)
        if telemetry.is_on or _is_off(environ):
            return cls(telemetry, None)
        service = environ.get("OTEL_SERVICE_NAME", "").strip() or "kiln"
        version = environ.get("AWS_LAMBDA_FUNCTION_VERSION", "")
        return cls(
            telemetry,
            EmbeddedMetrics(metadata, settings.root_path, service, version=version, drift=drift),
        )

    def flush(self, deadline_s: float) -> bool:
        """Everything that was seen so far; False if the collector did not take it in time."""
        return self._embedded.flush() if self._embedded else self._telemetry.flush(deadline_s)

    def renew(self) -> None:
        """In a copy of the process from a snapshot: its own instance, with new connections."""
        if self._embedded:
            self._embedded.renew()
        self._telemetry.renew()

    def close(self) -> None:
        """What is left, in the time that Lambda gives."""
        if self._embedded:
            self._embedded.flush()
        self._telemetry.close(CLOSE_S)


def _is_off(environ: Mapping[str, str]) -> bool:
    return (
        environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or environ.get("OTEL_METRICS_EXPORTER", "").strip().lower() == "none"
    )
