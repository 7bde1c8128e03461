"""One Lambda invocation: answer the event, then flush telemetry before the process may freeze."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from common.model.artifact import ArtifactMetadata
from serve.aws_lambda.embedded_metrics import EmbeddedMetrics
from serve.drift.watch import watch_traffic
from serve.exchange import Observer
from serve.settings import Settings
from serve.telemetry.telemetry import Telemetry

CLOSE_S = 0.25  # Lambda kills a process 300 ms after SIGTERM


class LambdaTelemetry:
    """`Telemetry`; metrics go to the log in CloudWatch's format where nothing is exported."""

    def __init__(self, telemetry: Telemetry, embedded: EmbeddedMetrics | None) -> None:
        self._telemetry, self._embedded = telemetry, embedded
        self.observer: Observer = telemetry.observer
        if embedded:
            telemetry.add_observer(embedded)

    @classmethod
    def start(
        cls,
        settings: Settings,
        metadata: ArtifactMetadata,
        environ: Mapping[str, str] = os.environ,
    ) -> "LambdaTelemetry":
        """Telemetry as OpenTelemetry's variables ask for; metrics may be switched off by `none`.

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
            EmbeddedMetrics(metadata, service, version=version, drift=drift),
        )

    def flush(self, deadline_s: float) -> bool:
        """Sends everything that was seen so far; False if the collector did not take it in time."""
        return self._embedded.flush() if self._embedded else self._telemetry.flush(deadline_s)

    def renew(self) -> None:
        """Renews the instance and its connections in a copy of the process from a snapshot."""
        if self._embedded:
            self._embedded.renew()
        self._telemetry.renew()

    def close(self) -> None:
        """Sends what is left, in the time that Lambda gives."""
        if self._embedded:
            self._embedded.flush()
        self._telemetry.close(CLOSE_S)


def _is_off(environ: Mapping[str, str]) -> bool:
    return (
        environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or environ.get("OTEL_METRICS_EXPORTER", "").strip().lower() == "none"
    )


MARGIN_S = 0.1  # of an invocation's time that is never spent on telemetry
_LONGEST_PAUSE_S = 60.0
Handler = Callable[[Any, Any], Any]
Flush = Callable[[float], bool]


class FlushingHandler:
    """A handler that has everything flushed before its answer returns to Lambda.

    A collector that does not take it in time costs the invocation `budget_s` at most, and few of
    those that follow anything: there is a pause, twice as long after each failure, in which nobody
    waits. What could not be sent stays in its queue.
    """

    def __init__(
        self,
        answer: Handler,
        flush: Flush,
        budget_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answer, self._flush, self._budget_s, self._clock = answer, flush, budget_s, clock
        self._failures = 0
        self._paused_until = float("-inf")

    def __call__(self, event: Any, context: Any) -> Any:
        try:
            return self._answer(event, context)
        finally:
            self._send(context.get_remaining_time_in_millis() / 1e3)

    def reset(self) -> None:
        """Has the next invocation wait for the collector, whatever happened before."""
        self._failures, self._paused_until = 0, float("-inf")

    def _send(self, remaining_s: float) -> None:
        deadline_s = max(0.0, min(self._budget_s, remaining_s - MARGIN_S))
        if self._clock() < self._paused_until:
            self._flush(0.0)  # begins to send, for whatever time the process still runs
        elif self._flush(deadline_s):
            self._failures = 0
        else:
            self._failures += 1
            pause_s = min(_LONGEST_PAUSE_S, self._budget_s * 2**self._failures)
            self._paused_until = self._clock() + pause_s
