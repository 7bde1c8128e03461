"""One exchange of HTTP: the identity of a request, and what became of it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
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
WHOLE = "kiln.whole"  # of a scope: the server has all of the body, and there is nothing to wait for


@dataclass(slots=True, eq=False)
class Exchange:
    """Facts of a request and its answer, filled in on the way.

    Times are `time.perf_counter()` in seconds.
    """

    traceparent: InitVar[bytes | None]
    scheme: str = "http"
    is_internal: bool = False  # asked by the release manager, or to warm up: nobody's question
    start: float = field(default_factory=time.perf_counter, init=False)
    request_id: str = field(init=False)  # 32 hexadecimal digits, also the trace id
    parent: str | None = field(init=False)  # the caller's span
    sampled: bool = field(init=False)  # by the caller
    tracestate: bytes | None = None  # of the parent, as it came
    route: str = ""  # the template that the path matched; "" where there is none
    status: int = 0
    error: str | None = None  # kind of the problem that was answered
    decode_at: float = 0.0
    encode_at: float = 0.0
    decode_s: float = 0.0
    queue_s: float = 0.0
    infer_s: float = 0.0
    encode_s: float = 0.0
    waiting: int = 0  # images that had been admitted before and had no answer yet
    batch: int = 0  # images in the run that answered
    refused: Sequence[str] = ()  # kinds of the errors of single images of a batch
    trailing: Sequence[str] = ()  # types of the images that bytes follow
    images: NDArray[np.uint8] | None = None  # (n, H, W, 3) that were decoded
    places: Sequence[int] = ()  # of these among the request's images, where some were refused
    probabilities: NDArray[np.float32] | None = None  # (n, K)

    def __post_init__(self, traceparent: bytes | None) -> None:
        self.request_id, self.parent, self.sampled = _context(traceparent)


class Observer(Protocol):
    """Sees every request when its answer has been sent; must not raise, nor take long."""

    def __call__(self, exchange: Exchange, method: str, path: str) -> None: ...


def _context(traceparent: bytes | None) -> tuple[str, str | None, bool]:
    """(trace id, parent span id, sampled); a new trace where the header is missing or malformed."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or (match[1] == _NEWEST and match[5]):
        return os.urandom(16).hex(), None, False
    return match[2].decode(), match[3].decode(), bool(int(match[4], 16) & 1)
