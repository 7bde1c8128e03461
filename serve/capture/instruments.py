"""OpenTelemetry instruments of the recorder."""

from collections.abc import Callable, Iterable, Iterator

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from serve.capture.recorder import Counts, Recorder
from serve.telemetry import instruments as inst

_Read = Callable[[Counts], Iterator[Observation]]


def register_instruments(meter: Meter, recorder: Recorder) -> None:
    """The catalogue's capture metrics of one process; sum them over processes."""

    def reading(read: _Read) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
        return [lambda _: list(read(recorder.counts))]

    what = inst.CAPTURE_KEPT
    meter.create_observable_counter(what.name, reading(_kept), what.unit, what.description)
    what = inst.CAPTURE_DROPPED
    meter.create_observable_counter(what.name, reading(_dropped), what.unit, what.description)
    what = inst.CAPTURE_WAITING
    meter.create_observable_gauge(what.name, reading(_waiting), what.unit, what.description)


def _kept(counts: Counts) -> Iterator[Observation]:
    yield Observation(counts.kept)


def _dropped(counts: Counts) -> Iterator[Observation]:
    for reason, number in counts.dropped.items():
        yield Observation(number, {"reason": reason})


def _waiting(counts: Counts) -> Iterator[Observation]:
    yield Observation(counts.waiting_bytes)
