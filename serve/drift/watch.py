"""Has the drift monitor see every request of a process."""

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
    """Monitors every request from now on; None where the settings switch that off.

    Alarms are logged and, where metrics are exported, exported with the states behind them.
    """
    if settings.drift_rate == 0:
        return None
    monitor = DriftMonitor(metadata, rate=settings.drift_rate)

    def register(meter: "Meter") -> None:
        from serve.drift.instruments import register_instruments  # loads OpenTelemetry

        register_instruments(meter, monitor)

    telemetry.add_observer(monitor)
    telemetry.instrument(register)
    return monitor
