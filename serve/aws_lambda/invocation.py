"""One Lambda invocation: answers the event, then flushes what is due before the process may
freeze.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from mangum import Mangum
from mangum.protocols import HTTPCycle

from common.model.artifact import ArtifactMetadata
from serve.aws_lambda.embedded_metrics import EmbeddedMetrics
from serve.capture.watch import Capturing, capture_answers
from serve.drift.monitor import watch_traffic
from serve.errors import ServiceError, problem_of
from serve.exchange import Observer
from serve.settings import Settings
from serve.telemetry.telemetry import Telemetry

# Metrics are sent with the first invocation, then once per interval. Whatever is recorded after the
# last export is lost if the environment ends without SIGTERM.
_INTERVAL, _INTERVAL_MS = "OTEL_METRIC_EXPORT_INTERVAL", "5000"
CLOSE_S = 0.25  # Lambda kills a process 300 ms after SIGTERM


class LambdaTelemetry:
    """`Telemetry`, with metrics in CloudWatch's log format unless they are exported by OTLP.

    Also flushes captured predictions.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        embedded: EmbeddedMetrics | None,
        capturing: Capturing | None = None,
    ) -> None:
        self._telemetry, self._embedded, self.capturing = telemetry, embedded, capturing
        self.observer: Observer = telemetry.observer
        if embedded:
            telemetry.add_observer(embedded)

    @classmethod
    def start(
        cls, settings: Settings, metadata: ArtifactMetadata, environ: Mapping[str, str] = os.environ
    ) -> "LambdaTelemetry":
        """Telemetry as OpenTelemetry's variables configure it; `none` turns metrics off.

        Raises:
            SettingsError: names every variable that is wrong.
        """
        telemetry = Telemetry.start(settings, metadata, {_INTERVAL: _INTERVAL_MS, **environ})
        drift = watch_traffic(telemetry, settings, metadata)
        # A thread that wakes on a timer would be frozen in mid-work, or delay a warm invocation.
        capturing = capture_answers(telemetry, settings, metadata, by_itself=False)
        if telemetry.is_on or _is_off(environ):
            return cls(telemetry, None, capturing)
        service = environ.get("OTEL_SERVICE_NAME", "").strip() or "kiln"
        version = environ.get("AWS_LAMBDA_FUNCTION_VERSION", "")
        return cls(
            telemetry,
            EmbeddedMetrics(
                metadata,
                service,
                version=version,
                drift=drift,
                recorder=capturing and capturing.recorder,
            ),
            capturing,
        )

    def flush(self, deadline_s: float) -> bool:
        """Sends what is due after an invocation; False if the collector did not take it in time."""
        return self._embedded.flush() if self._embedded else self._telemetry.flush_due(deadline_s)

    def flush_captures(self, deadline_s: float) -> bool:
        """Writes captured predictions if there are enough or they are old; false if the store
        failed.
        """
        return self.capturing is None or self.capturing.recorder.flush_due(deadline_s)

    def renew(self) -> None:
        """Renews the instance and its connections in a copy of the process from a snapshot."""
        if self._embedded:
            self._embedded.renew()
        if self.capturing:
            self.capturing.renew()
        self._telemetry.renew()

    def close(self) -> None:
        """Sends the rest in the time that Lambda allows."""
        end = time.monotonic() + CLOSE_S
        if self.capturing:
            self.capturing.recorder.flush(0.0)  # starts it, while telemetry is sent
        if self._embedded:
            self._embedded.flush()
        self._telemetry.close(CLOSE_S)
        if self.capturing:
            self.capturing.recorder.close(end - time.monotonic())


def _is_off(environ: Mapping[str, str]) -> bool:
    return (
        environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or environ.get("OTEL_METRICS_EXPORTER", "").strip().lower() == "none"
    )


_WARMERS = {"aws.events", "aws.scheduler", "serverless-plugin-warmup"}


class Adapter(Mangum):
    """Mangum, with error responses for malformed events and events of other sources."""

    def __init__(self, app: Any, model_version: str) -> None:
        super().__init__(app, lifespan="off")  # Mangum would run start-up again for every event
        self._model_version = model_version

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:
        """The response in API Gateway's form, whatever the event."""
        try:
            http = self.infer(event, context)
            scope, body = http.scope, http.body
            for text in (scope["method"], scope["path"]):
                text.encode()  # may hold a lone UTF-16 surrogate
        except Exception as exc:  # Mangum raises arbitrary exceptions on malformed events
            return self._is_no_request(event, exc)
        return http(HTTPCycle(scope, body)(self.app))

    def _is_no_request(self, event: Any, exc: Exception) -> dict[str, Any]:
        if _is_warm_up(event):
            return self._response(200, {"status": "warm", "model_version": self._model_version})
        of = f"an event with {', '.join(map(ascii, sorted(event)[:9]))}" if _is_map(event) else ""
        detail = (
            "expected a request through API Gateway, a function URL or a load balancer, "
            f"or a warm-up; got {of or type(event).__name__}, in which {ascii(str(exc))[:200]}"
        )
        return self._response(400, problem_of(ServiceError, detail, self._model_version))

    def _response(self, status: int, content: dict[str, Any]) -> dict[str, Any]:
        kind = "application/json" if status == 200 else "application/problem+json"
        return {
            "statusCode": status,
            "headers": {"content-type": kind, "x-model-version": self._model_version},
            "body": json.dumps(content),
            "isBase64Encoded": False,
        }


def _is_map(event: Any) -> bool:
    return isinstance(event, dict) and all(isinstance(name, str) for name in event)


def _is_warm_up(event: Any) -> bool:
    """Whether this is a keep-warm event: from a schedule, from a warmer, or empty."""
    if not event:
        return True
    return isinstance(event, dict) and (
        event.get("source") in _WARMERS
        or event.get("detail-type") == "Scheduled Event"
        or "warmer" in event
        or "warmup" in event
    )


MARGIN_S = 0.1  # part of an invocation's time that telemetry never gets
_LONGEST_PAUSE_S = 60.0
Handler = Callable[[Any, Any], Any]
Flush = Callable[[float], bool]


class FlushingHandler:
    """Flushes what is due before the handler's response returns to Lambda.

    A slow collector costs an invocation at most `budget_s`, and affects few of them: after each
    failure there is a pause, twice as long as the last, in which no invocation waits. Unsent items
    stay queued.
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
        """Ends the pause: the next invocation waits for the collector again."""
        self._failures, self._paused_until = 0, float("-inf")
        if isinstance(self._answer, FlushingHandler):
            self._answer.reset()

    def _send(self, remaining_s: float) -> None:
        deadline_s = max(0.0, min(self._budget_s, remaining_s - MARGIN_S))
        if self._clock() < self._paused_until:
            self._flush(0.0)  # starts sending, for as long as the process still runs
        elif self._flush(deadline_s):
            self._failures = 0
        else:
            self._failures += 1
            pause_s = min(_LONGEST_PAUSE_S, self._budget_s * 2**self._failures)
            self._paused_until = self._clock() + pause_s
