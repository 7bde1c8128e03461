"""What callers say of answers, and the stored batches in which these are looked for, under guided
fuzzing: what is kept is what Python reads, and a batch that somebody damaged holds nothing."""

import gzip
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.fuzz.request_targets import SETTINGS, now
from benchmarks.fuzz.targets import Target, hold
from common.captures import CAPTURES
from common.objects import Store, Stored
from serve.capture.lookup import AnswerIndex
from serve.errors import ServiceError
from serve.http.routes import FeedbackEndpoint
from serve.http.schemas import Feedback
from serve.http.service import Service

_ID = "0123456789abcdef" * 2

# --- POST /feedback ------------------------------------------------------------------------------


class _Kept:
    """Keeps the last label."""

    def __init__(self) -> None:
        self.last: Feedback | None = None

    def say(self, feedback: Feedback, caller: str, asked_at: float) -> bool:
        self.last = feedback
        return True


_KEPT = _Kept()
_SERVICE: Any = SimpleNamespace(
    keys=SimpleNamespace(caller=lambda _: ""), settings=SETTINGS, classes=("cat", "dog")
)
_ENDPOINT = FeedbackEndpoint(cast(Service, _SERVICE), _KEPT)


def _say(data: bytes) -> None:
    """A line for the content type; then the body."""
    content_type, _, body = data.partition(b"\n")
    scope = {"type": "http", "headers": [(b"content-type", content_type)], "query_string": b""}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    _KEPT.last = None
    try:
        now(_ENDPOINT(scope, receive, send))
    except ServiceError as exc:
        hold(exc.status in (400, 413, 415, 422), f"refused by {exc.status}")
        hold(_KEPT.last is None, "refused, and kept")
        return
    plain = json.loads(body.removeprefix(b"\xef\xbb\xbf"))
    expected = (plain["request_id"], plain["label"], plain.get("index", 0))
    kept = cast(Feedback, _KEPT.last)
    hold((kept.request_id, kept.label, kept.index) == expected, f"{kept} is kept")
    answer = json.loads(sent[1]["body"])
    hold((answer["request_id"], answer["label"], answer["index"]) == expected, f"{answer} is said")


def _said() -> Iterator[bytes]:
    whole: dict[str, Any] = {"request_id": _ID, "label": "cat", "index": 1}
    bodies: tuple[Any, ...] = (
        *(whole, whole | {"index": 0}, whole | {"index": 100}, whole | {"index": -1}),
        *(whole | {"index": 1.0}, whole | {"label": "bird"}, whole | {"label": ""}),
        *(whole | {"request_id": _ID.upper()}, whole | {"request_id": _ID + "\n"}),
        *(whole | {"more": None}, {"label": "cat"}, [], None),
    )
    for body in bodies:
        yield b"application/json\n" + json.dumps(body).encode()
    yield b"application/json; charset=utf-8\n\xef\xbb\xbf" + json.dumps(whole).encode()
    yield b"text/plain\n" + json.dumps(whole).encode()
    yield b"\n" + json.dumps(whole).encode()


# --- Batches of captures --------------------------------------------------------------------------


class _Batch:
    """A store with one batch, of the hour that is looked at first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._prefix = data, ""

    def entries(self, prefix: str, after: str = "") -> list[Stored]:
        self._prefix = self._prefix or prefix
        return [Stored(f"{prefix}batch", len(self._data), 0.0)] if prefix == self._prefix else []

    def read(self, key: str) -> bytes:
        hold(key.startswith(CAPTURES), f"{key} was read")
        return self._data


def _look(data: bytes) -> None:
    """The input after a ``+`` packed as a batch, or else the input as a batch itself."""
    batch = gzip.compress(data[1:], 1, mtime=0) if data[:1] == b"+" else data
    index = AnswerIndex()
    store = cast(Store, _Batch(batch))
    found = [index.find(store, _ID, place, time.monotonic(), 60.0) for place in (0, 1)]
    if any(found):
        rows = [json.loads(line) for line in gzip.decompress(batch).splitlines() if line.strip()]
        answers = {(row["request_id"], row["index"]) for row in rows}
        hold(found == [(_ID, place) in answers for place in (0, 1)], f"found are {found}")


def _batches() -> Iterator[bytes]:
    rows = [{"request_id": _ID, "index": place, "label": "cat", "x": [1.5]} for place in (0, 1)]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    packed = gzip.compress(lines, 1, mtime=0)
    yield from (b"+" + lines, b"+" + lines[:-9], b"+\n\n" + lines, b"+", b"+[]", b"+{}")
    yield from (b'+{"request_id": "a", "index": %d}' % 10**30, b"+" + b"[" * 2000)
    yield from (packed, packed * 2, packed[:-1], packed + b"\0", packed[:12], b"")


_WORDS = (b'"request_id"', b'"label"', b'"index"', _ID.encode(), b'"cat"', b"\\u0000", b"1e0")
FEEDBACK = Target("feedback", _say, _said, 512, (*_WORDS, b"application/json"))
CAPTURES_READ = Target("captures", _look, _batches, 4096, (*_WORDS, b"\x1f\x8b\x08", b"\n"))
