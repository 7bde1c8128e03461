"""One exchange of HTTP: the identity of a request, and what became of it."""

import os
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the server's parent logs, and needs no arrays
    import numpy as np
    from numpy.typing import NDArray

# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may be longer.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)
_NEWEST = b"00"

KEY = "kiln.exchange"  # of a scope


class Exchange:
    """Facts of a request and its answer, filled in on the way.

    Times are `time.perf_counter()` in seconds.
    """

    __slots__ = (
        "batch",
        "decode_at",
        "decode_s",
        "encode_at",
        "encode_s",
        "error",
        "images",
        "infer_s",
        "parent",
        "probabilities",
        "queue_s",
        "refused",
        "request_id",
        "route",
        "sampled",
        "scheme",
        "start",
        "status",
        "tracestate",
        "waiting",
    )

    def __init__(self, traceparent: bytes | None, scheme: str = "http") -> None:
        self.start = time.perf_counter()
        self.scheme = scheme
        self.request_id, self.parent, self.sampled = _context(traceparent)
        self.tracestate: bytes | None = None  # of the parent, as it came
        self.route = ""  # the template that the path matched; "" where there is none
        self.status = 0
        self.error: str | None = None  # kind of the problem that was answered
        self.decode_at = self.encode_at = 0.0
        self.decode_s = self.queue_s = self.infer_s = self.encode_s = 0.0
        self.waiting = 0  # images that had been let in before and had no answer yet
        self.batch = 0  # images in the run that answered
        self.refused: Sequence[str] = ()  # kinds of the errors of single images of a batch
        self.images: NDArray[np.uint8] | None = None  # (n, H, W, 3) that were decoded
        self.probabilities: NDArray[np.float32] | None = None  # (n, K)


class Observer(Protocol):
    """Sees every request when its answer has been sent; must not raise, nor take long."""

    def __call__(self, exchange: Exchange, method: str, path: str) -> None: ...


def _context(traceparent: bytes | None) -> tuple[str, str | None, bool]:
    """(trace id, parent span id, sampled); a new trace where the header is missing or malformed."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or (match[1] == _NEWEST and match[5]):
        return os.urandom(16).hex(), None, False
    return match[2].decode(), match[3].decode(), bool(int(match[4], 16) & 1)
