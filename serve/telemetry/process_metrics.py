"""Instruments of the process itself."""

from collections.abc import Callable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from serve.telemetry import instruments as inst
from serve.telemetry import process
from serve.telemetry.instruments import Instrument

_GAUGES: dict[Instrument, Callable[[], float]] = {
    inst.MEMORY: process.memory_bytes,
    inst.FILES: process.open_files,
    inst.THREADS: process.threads,
    inst.UPTIME: process.uptime_s,
}


def observe_process(meter: Meter) -> None:
    """Read at each export."""
    for what, read in _GAUGES.items():
        meter.create_observable_gauge(what.name, [_one(read)], what.unit, what.description)
    cpu = inst.CPU_TIME
    meter.create_observable_counter(cpu.name, [_cpu], cpu.unit, cpu.description)


def _one(read: Callable[[], float]) -> Callable[[CallbackOptions], list[Observation]]:
    return lambda _: [Observation(read())]


def _cpu(_: CallbackOptions) -> list[Observation]:
    modes = zip(("user", "system"), process.cpu_s(), strict=True)
    return [Observation(seconds, {"cpu.mode": mode}) for mode, seconds in modes]
