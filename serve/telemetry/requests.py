"""Observes requests for metrics and traces."""

import logging
import time
from collections.abc import Callable

from serve.call import Call, Observer
from serve.telemetry.recorder import Exemplar, Recorder, Request
from serve.telemetry.sampling import ErrorBudget, Sampler

logger = logging.getLogger(__name__)


class Observers:
    """An `Observer` that tells others, in their order; a mistake of one is logged once."""

    def __init__(self) -> None:
        self.first: Observer | None = None  # the service's own, which `renew` replaces
        self._added: tuple[Observer, ...] = ()
        self._failed: set[int] = set()

    def add(self, observer: Observer) -> None:
        """From now on it is told, too."""
        self._added = (*self._added, observer)

    def __call__(self, call: Call, method: str, path: str) -> None:
        for observer in (self.first, *self._added) if self.first else self._added:
            try:
                observer(call, method, path)
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
ROUTES = frozenset(
    {
        *("/predict", "/predict/batch", "/health", "/ready", "/model/info"),
        *("/", "/docs", "/openapi.json", "/samples"),
    }
)
_FILES = "/site/"
# (call, request, path, start and end in nanoseconds) to the id of the server's span
Trace = Callable[[Call, Request, str, int, int], str]


class RequestObserver:
    """Records every request, and hands on those that are sampled to be traced."""

    def __init__(
        self, recorder: Recorder, sampler: Sampler, trace: Trace | None, root_path: str = ""
    ) -> None:
        self._recorder, self._sampler, self._trace = recorder, sampler, trace
        self._root_path = root_path
        self._errors = ErrorBudget()
        self._requests: dict[tuple[str, str, int, str | None], Request] = {}

    def __call__(self, call: Call, method: str, path: str) -> None:
        duration_s = time.perf_counter() - call.start
        request = self.identify(method, path, call.status, call.error)
        stages = (call.decode_s, call.queue_s, call.infer_s, call.encode_s)
        self._recorder.record(
            request, duration_s, call.waiting, stages, call.batch, call.probabilities, call.refused
        )
        if self._trace is not None and self._is_sampled(call):
            end_ns = time.time_ns()
            start_ns = end_ns - round(duration_s * 1e9)
            span_id = self._trace(call, request, path, start_ns, end_ns)
            exemplar = Exemplar(duration_s, end_ns, call.request_id, span_id)
            self._recorder.mark(request, exemplar)

    def identify(self, method: str, path: str, status: int, error: str | None) -> Request:
        """The request's series; callers' inventions of methods and paths do not make new ones."""
        route = self._route(path)
        known = method if method in METHODS else "_OTHER"
        key = (known, route, status, error)
        if (found := self._requests.get(key)) is None:
            found = self._requests[key] = Request(*key)
        return found

    def _route(self, path: str) -> str:
        path = path.removeprefix(self._root_path)
        if path in ROUTES:
            return path
        return _FILES + "{file}" if path.startswith(_FILES) else ""

    def _is_sampled(self, call: Call) -> bool:
        if self._sampler.takes(call.request_id, call.parent is not None, call.sampled):
            return True
        return call.status >= 500 and self._sampler.errors and self._errors.take()
