"""One HTTP exchange: the request's identity and its outcome."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # no numpy import: the server's parent process logs, too
    import numpy as np
    from numpy.typing import NDArray

# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may be longer.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)
_NEWEST = b"00"

KEY = "kiln.exchange"  # key in the ASGI scope
WHOLE = "kiln.whole"  # key in the ASGI scope: the server has received the whole body


@dataclass(slots=True, eq=False)
class Exchange:
    """Facts about a request and its response, filled in along the way.

    Times are `time.perf_counter()` in seconds.
    """

    traceparent: InitVar[bytes | None]
    scheme: str = "http"
    is_internal: bool = False  # from the release manager or a warm-up, not from a caller
    start: float = field(default_factory=time.perf_counter, init=False)
    request_id: str = field(init=False)  # 32 hexadecimal digits, also the trace id
    parent: str | None = field(init=False)  # the caller's span
    sampled: bool = field(init=False)  # set by the caller
    tracestate: bytes | None = None  # of the caller's span, as received
    route: str = ""  # the matched path template; "" if there is none
    status: int = 0
    error: str | None = None  # kind of the problem in the response
    decode_at: float = 0.0
    encode_at: float = 0.0
    decode_s: float = 0.0
    queue_s: float = 0.0
    infer_s: float = 0.0
    encode_s: float = 0.0
    waiting: int = 0  # images queued or running when this request was admitted
    batch: int = 0  # batch size of the model run
    refused: Sequence[str] = ()  # error kinds of single images in a batch
    trailing: Sequence[str] = ()  # types of images followed by trailing bytes
    images: NDArray[np.uint8] | None = None  # (n, H, W, 3), decoded
    places: Sequence[int] = ()  # their positions in the request, if some images were rejected
    probabilities: NDArray[np.float32] | None = None  # (n, K)

    def __post_init__(self, traceparent: bytes | None) -> None:
        self.request_id, self.parent, self.sampled = _context(traceparent)


class Observer(Protocol):
    """Called after every response; must not raise or take long."""

    def __call__(self, exchange: Exchange, method: str, path: str) -> None: ...


def _context(traceparent: bytes | None) -> tuple[str, str | None, bool]:
    """(trace id, parent span id, sampled); a new trace where the header is missing or malformed."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or (match[1] == _NEWEST and match[5]):
        return os.urandom(16).hex(), None, False
    return match[2].decode(), match[3].decode(), bool(int(match[4], 16) & 1)
