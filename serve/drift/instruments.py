"""OpenTelemetry instruments of the drift monitor."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from common.model.drift import CLASSES
from serve.drift.monitor import PAUSE_S, DriftMonitor, DriftState
from serve.telemetry import instruments as inst

_Read = Callable[[], Iterable[Observation]]


def register_instruments(
    meter: Meter, monitor: DriftMonitor, clock: Callable[[], float] = time.monotonic
) -> None:
    """The drift metrics of the catalogue.

    Alarms and scores are per process: over a fleet, take the maximum. The bins are counters and
    add up, so the whole fleet's traffic can be compared with the shares of the reference. Exports
    within 15 s of the last with drift metrics omit them.
    """

    def of_state(
        read: Callable[[DriftState], Iterable[Observation]],
    ) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
        return [_paced(lambda: read(monitor.state()), clock)]

    def bins(state: DriftState) -> Iterator[Observation]:
        return _by_bin(state.totals.classes, state.totals.signals, monitor.metadata.classes)

    def shares() -> Iterator[Observation]:
        reference = monitor.metadata.drift_reference
        signals = {signal.name: signal.shares for signal in reference.signals}
        return _by_bin(reference.class_priors, signals, monitor.metadata.classes)

    for what, read in (
        (inst.DRIFT_ALARM, _alarms),
        (inst.DRIFT_WINDOW_IMAGES, _images),
        (inst.DRIFT_SCORE, _scores),
        (inst.DRIFT_THRESHOLD, _thresholds),
        (inst.DRIFT_IMAGES, bins),
    ):
        create = (
            meter.create_observable_counter
            if what.kind == "counter"
            else meter.create_observable_gauge
        )
        create(what.name, of_state(read), what.unit, what.description)
    what = inst.DRIFT_REFERENCE_SHARE
    meter.create_observable_gauge(what.name, [_paced(shares, clock)], what.unit, what.description)


def _paced(
    read: _Read, clock: Callable[[], float]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    # On Lambda every invocation exports, and 450 series each time would cost more than the
    # prediction.
    due = clock()

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        nonlocal due
        if clock() < due:
            return []
        due = clock() + PAUSE_S
        return list(read())

    return callback


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
    """One observation per bin, labelled by class name or bin number."""
    for name, value in zip(names, classes, strict=True):
        yield Observation(value, {"signal": CLASSES, "bin": name})
    for signal, values in signals.items():
        for index, value in enumerate(values):
            yield Observation(value, {"signal": signal, "bin": f"{index:02}"})
