"""What is exported and when: settings from OpenTelemetry's standard variables, sampling, and the
queues of spans and log records with the threads that drain them.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from serve.settings import SettingsError

SIGNALS = ("metrics", "traces", "logs")
SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_PROTOCOL = "http/protobuf"
_HALF = 16  # trailing hexadecimal digits of the trace id that decide
_RATIO = 0.01  # sampling ratio of requests without a trace of their own


@dataclass(frozen=True)
class Sampler:
    """Samples `ratio` of the traces, the same ones as any other service with this ratio."""

    ratio: float = 0.0
    follows_parent: bool = True  # a caller's decision takes precedence
    errors: bool = True  # error traces are sampled regardless of the ratio

    @classmethod
    def named(cls, name: str, ratio: float) -> "Sampler":
        """The sampler of a name in `SAMPLERS`; the ratio applies to those that use one."""
        kind = name.removeprefix("parentbased_")
        fixed = {"always_on": 1.0, "always_off": 0.0}
        return cls(fixed.get(kind, ratio), kind != name, errors=kind != "always_off")

    def takes(self, trace_id: str, has_parent: bool, parent_sampled: bool) -> bool:
        """Whether the trace of 32 hexadecimal digits is sampled.

        Source: opentelemetry.sdk.trace.sampling.TraceIdRatioBased, which compares the same digits.
        """
        if has_parent and self.follows_parent:
            return parent_sampled
        return int(trace_id[_HALF:], 16) < round(self.ratio * 2**64)


@dataclass(frozen=True)
class ExportSettings:
    """What is exported and how; OpenTelemetry is imported only if there is a signal."""

    signals: frozenset[str] = frozenset()
    sampler: Sampler = field(default_factory=Sampler)
    metrics_interval_s: float = 60.0
    # Whether metrics are exported periodically. Not on Lambda: the process may be frozen in
    # mid-export, and counts before its snapshot belong to no instance.
    on_its_own: bool = True
    span_queue: "QueueSettings" = field(default_factory=lambda: QueueSettings(5.0))
    log_queue: "QueueSettings" = field(default_factory=lambda: QueueSettings(1.0))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "ExportSettings":
        """Parses the variables.

        Raises:
            SettingsError: names every invalid variable, if anything is exported.
        """
        get = _Reader(environ)
        signals = frozenset(signal for signal in SIGNALS if _is_exported(get, signal))
        if not signals:
            return cls()
        found = cls(
            signals,
            _sampler(get),
            _milliseconds(get, "OTEL_METRIC_EXPORT_INTERVAL", cls.metrics_interval_s),
            not _may_be_frozen(environ),
            _queue(get, "OTEL_BSP", 5.0),
            _queue(get, "OTEL_BLRP", 1.0),
        )
        if get.problems:
            raise SettingsError("; ".join(get.problems))
        return found


def _may_be_frozen(environ: Mapping[str, str]) -> bool:
    """Whether this is an AWS Lambda function; Managed Instances keep running between
    invocations.
    """
    return "AWS_LAMBDA_RUNTIME_API" in environ and "AWS_LAMBDA_MAX_CONCURRENCY" not in environ


class QueueSettings(NamedTuple):
    """Capacity of the export queue, and export timing."""

    delay_s: float
    capacity: int = 2048
    batch: int = 512


class _Reader:
    """Values of variables, stripped, and a list of invalid ones."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def __call__(self, *variables: str) -> str:
        """The first variable that is set and not empty."""
        found = (self._environ.get(variable, "").strip() for variable in variables)
        return next(filter(None, found), "")

    def wrong(self, variable: str, text: str, expectation: str) -> None:
        self.problems.append(f"{variable} is {text!r}, expected {expectation}")


def _is_exported(get: _Reader, signal: str) -> bool:
    name = signal.upper()
    if get("OTEL_SDK_DISABLED").lower() == "true":
        return False
    endpoint = f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT"
    if not (url := get(endpoint, "OTEL_EXPORTER_OTLP_ENDPOINT")):
        return False
    exporter = f"OTEL_{name}_EXPORTER"
    match get(exporter).lower():
        case "none":
            return False
        case "" | "otlp":
            pass
        case other:
            get.wrong(exporter, other, "otlp or none")
    if not url.startswith(("http://", "https://")):
        get.wrong(f"{endpoint} or OTEL_EXPORTER_OTLP_ENDPOINT", url, "http://… or https://…")
    if signal == "metrics":
        _require_cumulative(get)
    for file in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        variables = f"OTEL_EXPORTER_OTLP_{name}_{file}", f"OTEL_EXPORTER_OTLP_{file}"
        if (path := get(*variables)) and not os.path.isfile(path):
            get.wrong(" or ".join(variables), path, "the path of a PEM file")
    protocol = f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL"
    if (spoken := get(protocol, "OTEL_EXPORTER_OTLP_PROTOCOL") or _PROTOCOL) != _PROTOCOL:
        get.wrong(f"{protocol} or OTEL_EXPORTER_OTLP_PROTOCOL", spoken, _PROTOCOL)
    return True


def _require_cumulative(get: _Reader) -> None:
    """Delta metrics would lose what a failed export carried."""
    variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    if (preference := get(variable).lower() or "cumulative") != "cumulative":
        get.wrong(variable, preference, "cumulative")


def _queue(get: _Reader, prefix: str, delay_s: float) -> QueueSettings:
    standard = QueueSettings(delay_s)
    return QueueSettings(
        _milliseconds(get, f"{prefix}_SCHEDULE_DELAY", delay_s),
        int(_number(get, f"{prefix}_MAX_QUEUE_SIZE", standard.capacity)),
        int(_number(get, f"{prefix}_MAX_EXPORT_BATCH_SIZE", standard.batch)),
    )


def _milliseconds(get: _Reader, variable: str, seconds: float) -> float:
    return _number(get, variable, seconds * 1e3) / 1e3


def _number(get: _Reader, variable: str, otherwise: float) -> float:
    text = get(variable)
    try:
        number = float(text or otherwise)
        if not 1 <= number <= 1e9:
            raise ValueError
    except ValueError:
        get.wrong(variable, text, "a number from 1 to 1000000000")
        return otherwise
    return number


def _sampler(get: _Reader) -> Sampler:
    name = get("OTEL_TRACES_SAMPLER") or "parentbased_traceidratio"
    if name not in SAMPLERS:
        get.wrong("OTEL_TRACES_SAMPLER", name, f"one of {', '.join(SAMPLERS)}")
        return Sampler()
    argument = get("OTEL_TRACES_SAMPLER_ARG")
    try:
        ratio = float(argument or _RATIO)
        if not 0 <= ratio <= 1:
            raise ValueError
    except ValueError:
        get.wrong("OTEL_TRACES_SAMPLER_ARG", argument, "a number from 0 to 1")
        return Sampler()
    return Sampler.named(name, ratio)


logger = logging.getLogger(__name__)


class Worker:
    """Runs `work` on request and, if it has an interval, periodically.

    Callers may wait for a run, up to a deadline.

    The SDK's own flush takes as long as the collector does, whatever the deadline:
    https://github.com/open-telemetry/opentelemetry-python/issues/4568
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], bool],
        interval_s: float,
        cancel: Callable[[], object] = lambda: None,
        *,
        on_its_own: bool = True,
    ) -> None:
        self._work, self._interval_s, self._cancel = work, interval_s, cancel
        self._timeout_s = interval_s if on_its_own else None
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._succeeded_at = float("-inf")  # seconds since 1970
        self._succeeded = True
        self._stopped = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_due(self) -> bool:
        """Whether its interval has passed since its last success, or it has had none.

        By the wall clock, since the monotonic one may stop while the process is frozen.
        """
        return abs(time.time() - self._succeeded_at) >= self._interval_s

    def ask(self) -> int:
        """Requests a run soon; returns a ticket to wait for."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def wait(self, ticket: int, end: float) -> bool:
        """Whether the requested run succeeds before `time.monotonic()` reaches `end`."""
        with self._changed:
            in_time = self._changed.wait_for(
                lambda: self._done >= ticket or self._stopped, max(0.0, end - time.monotonic())
            )
            return in_time and self._done >= ticket and self._succeeded

    def stop(self) -> None:
        """Ends the thread; `cancel` makes work in progress give up its retries."""
        self._stopped = True
        # After a fork the thread is gone, perhaps holding the lock.
        if self._process == os.getpid():
            with self._changed:
                self._changed.notify_all()
            self._cancel()

    def join(self, end: float) -> None:
        """Waits for the stopped thread until `time.monotonic()` reaches `end`."""
        if self._process == os.getpid():
            self._thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._asked > self._done or self._stopped, self._timeout_s
                )
                if self._stopped:
                    return
                ticket = self._asked
            succeeded = self._attempt()
            if succeeded:
                self._succeeded_at = time.time()
            with self._changed:
                self._done, self._succeeded = ticket, succeeded
                self._changed.notify_all()

    def _attempt(self) -> bool:
        try:
            return self._work()
        except Exception:
            logger.exception("telemetry could not be exported")
            return False


class ExportQueue:
    """Exports items in batches from its own thread; drops the newest when it is full."""

    def __init__(
        self,
        name: str,
        export: Callable[[Sequence[Any]], bool],
        delay_s: float,
        capacity: int,
        batch: int,
        cancel: Callable[[], object] = lambda: None,
    ) -> None:
        self.name, self.dropped = name, 0
        self._export, self._capacity, self._batch = export, capacity, min(batch, capacity)
        self._items: deque[Any] = deque()
        self.worker = Worker(f"export-{name}", self._send, delay_s, cancel)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is waiting for export."""
        return not self._items

    def put(self, items: Sequence[Any]) -> None:
        """Enqueues an item without blocking."""
        before = len(self._items)
        room = max(0, self._capacity - before)
        self._items.extend(items[:room])
        self.dropped += max(0, len(items) - room)
        if before < self._batch <= len(self._items):
            self.worker.ask()

    def _send(self) -> bool:
        succeeded = True
        for _ in range(-(-len(self._items) // self._batch)):  # not what arrives meanwhile
            count = min(self._batch, len(self._items))
            items = [self._items.popleft() for _ in range(count)]
            try:
                delivered = self._export(items)
            except Exception:
                self.dropped += count
                raise
            if not delivered:
                self.dropped += count
                succeeded = False
        return succeeded
