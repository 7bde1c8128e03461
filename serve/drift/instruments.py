"""What a monitor knows, as OpenTelemetry instruments that are read when metrics are exported."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from serve.contract.drift import CLASSES
from serve.drift.monitor import DriftMonitor, DriftState

_Read = Callable[[DriftState], Iterator[Observation]]


def register_instruments(meter: Meter, monitor: DriftMonitor) -> None:
    """The drift metrics of the catalogue.

    Alarms and scores are of one process: over a fleet, take the maximum. The bins are counters and
    add up, so the whole fleet's traffic can be compared with the shares of the reference.
    """

    def callback(read: _Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: list(read(monitor.state()))

    def bins(state: DriftState) -> Iterator[Observation]:
        return _by_bin(state.totals.classes, state.totals.signals, monitor.metadata.classes)

    def shares(_: CallbackOptions) -> Iterable[Observation]:
        reference = monitor.metadata.drift_reference
        signals = {signal.name: signal.shares for signal in reference.signals}
        return list(_by_bin(reference.class_priors, signals, monitor.metadata.classes))

    meter.create_observable_gauge(
        "kiln.drift.alarm", [callback(_alarms)], "1", "1 while a window's alarm is raised"
    )
    meter.create_observable_gauge(
        "kiln.drift.score", [callback(_scores)], "1", "Distance from the reference"
    )
    meter.create_observable_gauge(
        "kiln.drift.threshold", [callback(_thresholds)], "1", "Score above which an alarm is raised"
    )
    meter.create_observable_gauge(
        "kiln.drift.window.images", [callback(_images)], "{image}", "Images in a window"
    )
    meter.create_observable_counter(
        "kiln.drift.images", [callback(bins)], "{image}", "Measured images in a bin of a signal"
    )
    meter.create_observable_gauge(
        "kiln.drift.reference.share", [shares], "1", "Share of the reference's images in a bin"
    )


def _alarms(state: DriftState) -> Iterator[Observation]:
    for window in state.windows:
        yield Observation(int(window.raised), {"window": str(window.window)})


def _images(state: DriftState) -> Iterator[Observation]:
    for window in state.windows:
        yield Observation(window.images, {"window": str(window.window)})


def _scores(state: DriftState) -> Iterator[Observation]:
    return _statistics(state, "value")


def _thresholds(state: DriftState) -> Iterator[Observation]:
    return _statistics(state, "threshold")


def _statistics(state: DriftState, field: str) -> Iterator[Observation]:
    for window in state.windows:
        for s in window.report.statistics if window.report else ():
            labels = {"window": str(window.window), "signal": s.signal, "statistic": s.kind}
            yield Observation(getattr(s, field), labels)


def _by_bin(
    classes: Sequence[float], signals: Mapping[str, Sequence[float]], names: Sequence[str]
) -> Iterator[Observation]:
    """One observation a bin: of the predicted class by name, of the signals by the bin's number."""
    for name, value in zip(names, classes, strict=True):
        yield Observation(value, {"signal": CLASSES, "bin": name})
    for signal, values in signals.items():
        for index, value in enumerate(values):
            yield Observation(value, {"signal": signal, "bin": f"{index:02}"})
