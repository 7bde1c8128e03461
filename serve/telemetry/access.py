"""The access log: one line per request, or per failed request."""

import logging
import time

from serve.call import Call

logger = logging.getLogger(__name__)


_LONGEST = 256  # characters of a path


class AccessLog:
    """An `Observer`; a line costs 20 µs, so that by default only failures have one."""

    def __init__(self, errors_only: bool) -> None:
        self._errors_only = errors_only

    def __call__(self, call: Call, method: str, path: str) -> None:
        # A caller who leaves within a request is no failure: many can, and would fill the log.
        failed = call.status >= 500 or (not call.status and call.error != "client-left")
        if self._errors_only and not failed:
            return
        facts: dict[str, object] = {
            "request_id": call.request_id,
            "method": method[:_LONGEST],
            "path": path[:_LONGEST],
            "status": call.status,
            "duration_ms": round((time.perf_counter() - call.start) * 1e3, 3),
        }
        if call.error:
            facts["error"] = call.error
        if call.batch:
            facts["batch"] = call.batch
        logger.log(logging.WARNING if failed else logging.INFO, "request answered", extra=facts)
