"""Observes requests for metrics and traces."""

import logging
import time
from collections.abc import Callable

from serve.exchange import Exchange, Observer
from serve.telemetry.recorder import Exemplar, Recorder, Request
from serve.telemetry.settings import Sampler

logger = logging.getLogger(__name__)


class Observers:
    """An `Observer` that calls others in order; logs each one's first failure."""

    def __init__(self) -> None:
        self.first: Observer | None = None  # the service's own, which `renew` replaces
        self._added: tuple[Observer, ...] = ()
        self._failed: set[int] = set()

    def add(self, observer: Observer) -> None:
        """Adds an observer of every request from now on."""
        self._added = (*self._added, observer)

    def __call__(self, exchange: Exchange, method: str, path: str) -> None:
        for observer in (self.first, *self._added) if self.first else self._added:
            try:
                observer(exchange, method, path)
            except Exception:
                self._report(observer)

    def _report(self, observer: Observer) -> None:
        if id(observer) not in self._failed:
            self._failed.add(id(observer))
            logger.exception(
                "an observer of requests failed; it is not logged again",
                extra={"observer": repr(observer)},
            )


METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
_ERRORS_PER_SECOND = 10  # error traces per second beyond the ratio: overload produces thousands
# (exchange, request, path, start and end in nanoseconds) to the id of the server span
Trace = Callable[[Exchange, Request, str, int, int], str]


class SeriesNames:
    """The series of a request, one object for each."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int, str | None], Request] = {}

    def __call__(self, exchange: Exchange, method: str) -> Request:
        """The request's series; unknown methods and paths do not create new ones."""
        known = method if method in METHODS else "_OTHER"
        key = (known, exchange.route, exchange.status, exchange.error)
        if (found := self._requests.get(key)) is None:
            found = self._requests[key] = Request(*key)
        return found


class RequestObserver:
    """Records every request, and passes sampled ones on to be traced."""

    def __init__(self, recorder: Recorder, sampler: Sampler, trace: Trace | None) -> None:
        self._recorder, self._sampler, self._trace = recorder, sampler, trace
        self._errors = ErrorBudget()
        self._series = SeriesNames()

    def __call__(self, exchange: Exchange, method: str, path: str) -> None:
        duration_s = time.perf_counter() - exchange.start
        request = self._series(exchange, method)
        stages = (exchange.decode_s, exchange.queue_s, exchange.infer_s, exchange.encode_s)
        self._recorder.record(
            request,
            duration_s,
            exchange.waiting,
            stages,
            exchange.batch,
            exchange.probabilities,
            exchange.refused,
            exchange.trailing,
        )
        if self._trace is not None and self._is_sampled(exchange):
            end_ns = time.time_ns()
            start_ns = end_ns - round(duration_s * 1e9)
            span_id = self._trace(exchange, request, path, start_ns, end_ns)
            exemplar = Exemplar(duration_s, end_ns, exchange.request_id, span_id)
            self._recorder.mark(request, exemplar)

    def _is_sampled(self, exchange: Exchange) -> bool:
        if self._sampler.takes(exchange.request_id, exchange.parent is not None, exchange.sampled):
            return True
        return exchange.status >= 500 and self._sampler.errors and self._errors.take()


class ErrorBudget:
    """A limit of errors per second."""

    def __init__(
        self, per_second: int = _ERRORS_PER_SECOND, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._clock = per_second, clock
        self._second, self._taken = 0, 0

    def take(self) -> bool:
        """Whether there is one left."""
        if (second := int(self._clock())) != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        return self._taken <= self._per_second
