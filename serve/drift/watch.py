"""Connects the drift monitor to every request of a process."""

from typing import TYPE_CHECKING

from common.model.artifact import ArtifactMetadata
from serve.drift.monitor import DriftMonitor
from serve.settings import Settings
from serve.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter


def watch_traffic(
    telemetry: Telemetry, settings: Settings, metadata: ArtifactMetadata
) -> DriftMonitor | None:
    """Starts monitoring; None if the settings turn it off.

    Alarms are logged; if metrics are exported, alarms and scores are too.
    """
    if settings.drift_rate == 0:
        return None
    monitor = DriftMonitor(metadata, rate=settings.drift_rate)

    def register(meter: "Meter") -> None:
        from serve.drift.instruments import register_instruments  # imports OpenTelemetry

        register_instruments(meter, monitor)

    telemetry.add_observer(monitor)
    telemetry.instrument(register)
    return monitor
