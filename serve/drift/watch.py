"""Connects the drift monitor to every request of a process, and exports what it finds."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from common.model.artifact import ArtifactMetadata
from common.model.drift import CLASSES
from serve.drift.monitor import PAUSE_S, DriftMonitor, DriftState
from serve.settings import Settings
from serve.telemetry import instruments as inst
from serve.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

_Reading = tuple[float, dict[str, str]]  # a value and its attributes


def watch_traffic(
    telemetry: Telemetry, settings: Settings, metadata: ArtifactMetadata
) -> DriftMonitor | None:
    """Starts monitoring; None if the settings turn it off.

    Alarms are logged; if metrics are exported, alarms and scores are too.
    """
    if settings.drift_rate == 0:
        return None
    monitor = DriftMonitor(metadata, rate=settings.drift_rate)
    telemetry.add_observer(monitor)
    telemetry.instrument(lambda meter: register_instruments(meter, monitor))
    return monitor


def register_instruments(
    meter: "Meter", monitor: DriftMonitor, clock: Callable[[], float] = time.monotonic
) -> None:
    """The drift metrics of the catalogue.

    Alarms and scores are per process: over a fleet, take the maximum. The bins are counters and
    add up, so the whole fleet's traffic can be compared with the shares of the reference. Exports
    within 15 s of the last with drift metrics omit them.
    """
    reference, classes = monitor.metadata.drift_reference, monitor.metadata.classes

    def bins(state: DriftState) -> Iterator[_Reading]:
        return _by_bin(state.totals.classes, state.totals.signals, classes)

    def shares(_: DriftState) -> Iterator[_Reading]:
        signals = {signal.name: signal.shares for signal in reference.signals}
        return _by_bin(reference.class_priors, signals, classes)

    for what, read in (
        (inst.DRIFT_ALARM, _alarms),
        (inst.DRIFT_WINDOW_IMAGES, _images),
        (inst.DRIFT_SCORE, lambda state: _statistics(state, "value")),
        (inst.DRIFT_THRESHOLD, lambda state: _statistics(state, "threshold")),
        (inst.DRIFT_IMAGES, bins),
        (inst.DRIFT_REFERENCE_SHARE, shares),
    ):
        create = (
            meter.create_observable_counter
            if what.kind == "counter"
            else meter.create_observable_gauge
        )
        create(what.name, [_paced(monitor, read, clock)], what.unit, what.description)


def _paced(
    monitor: DriftMonitor,
    read: Callable[[DriftState], Iterable[_Reading]],
    clock: Callable[[], float],
) -> "Callable[[CallbackOptions], Iterable[Observation]]":
    from opentelemetry.metrics import Observation  # imported only where metrics are exported

    # On Lambda every invocation exports, and 450 series each time would cost more than the
    # prediction.
    due = clock()

    def callback(_: "CallbackOptions") -> "Iterable[Observation]":
        nonlocal due
        if clock() < due:
            return []
        due = clock() + PAUSE_S
        return [Observation(value, attributes) for value, attributes in read(monitor.state())]

    return callback


def _alarms(state: DriftState) -> Iterator[_Reading]:
    for window in state.windows:
        yield int(window.raised), {"window": str(window.window)}


def _images(state: DriftState) -> Iterator[_Reading]:
    for window in state.windows:
        yield window.images, {"window": str(window.window)}


def _statistics(state: DriftState, field: str) -> Iterator[_Reading]:
    for window in state.windows:
        for s in window.report.statistics if window.report else ():
            labels = {"window": str(window.window), "signal": s.signal, "statistic": s.kind}
            yield getattr(s, field), labels


def _by_bin(
    classes: Sequence[float], signals: Mapping[str, Sequence[float]], names: Sequence[str]
) -> Iterator[_Reading]:
    """One value per bin, labelled by class name or bin number."""
    for name, value in zip(names, classes, strict=True):
        yield value, {"signal": CLASSES, "bin": name}
    for signal, values in signals.items():
        for index, value in enumerate(values):
            yield value, {"signal": signal, "bin": f"{index:02}"}
