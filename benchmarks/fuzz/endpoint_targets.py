"""Endpoints beside /predict under guided fuzzing: feedback, with the stored batches of predictions,
and the open inference protocol.

Labels and tensors are what Python reads of them, in JSON as behind it; a damaged batch holds
nothing; responses can be read again.
"""

import base64
import gzip
import json
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np

from benchmarks.fuzz.request_targets import SETTINGS, now
from benchmarks.fuzz.targets import Target, hold
from common.captures import CAPTURES
from common.images import Pixels
from common.model.artifact import ArtifactMetadata
from common.objects import Store, Stored
from serve.capture.feedback import AnswerIndex
from serve.errors import ServiceError
from serve.http import open_inference, tensors
from serve.http.bodies import Upload
from serve.http.routes import FeedbackEndpoint
from serve.http.schemas import Feedback
from serve.http.service import Service
from serve.settings import MAX_IMAGES

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


# --- The open inference protocol ------------------------------------------------------------------

_SIZE = (2, 3)  # height and width, so that chance alone writes whole images
_SHAPE = (*_SIZE, 3)
_CLASSES = ("cat", "dog", "Übel")
_MODEL = cast(ArtifactMetadata, SimpleNamespace(name="m", version="0" * 64, classes=_CLASSES))


def _infer(data: bytes) -> None:
    """Lines for the length of the JSON and the encodings that are taken; then the body."""
    length, accepted, body = (data.split(b"\n", 2) + [b""] * 2)[:3]
    scope = {"headers": [(b"inference-header-content-length", length)] if length else []}
    try:
        request, binary = tensors.read_request(scope, body)
        wanted = tensors.wanted_outputs(request)
        found = tensors.read_input(request, binary, _SIZE)
    except ServiceError as exc:
        hold(exc.status in (400, 422), f"refused by {exc.status}")
        return
    hold(1 <= len(found) <= MAX_IMAGES, f"{len(found)} images")
    if isinstance(found, list):
        _hold_files(request, binary, found)
    else:
        _hold_pixels(request, binary, found)
    _hold_answer(request, wanted, accepted, len(found))


def _hold_pixels(request: tensors.InferRequest, binary: bytes, found: Pixels) -> None:
    (one,) = request.inputs
    hold(found.dtype == np.uint8 and found.shape == (one.shape[0], *_SHAPE), f"{found.shape}")
    expected = binary or bytes(np.array(json.loads(_text(one)), np.uint8).ravel())
    hold(found.tobytes() == expected, "other pixels than those that were sent")


def _hold_files(request: tensors.InferRequest, binary: bytes, found: list[Upload]) -> None:
    hold(len(found) == request.inputs[0].shape[0], f"{len(found)} files")
    files = [one.data for one in found]
    if isinstance(request.inputs[0].data, msgspec.Raw):
        texts = [one if isinstance(one, str) else one[0] for one in _listed(request)]
        for file, text in zip(files, texts, strict=True):
            with suppress(ValueError):  # other forms of base64 are BODIES' to look at
                plain = base64.b64decode(text, validate=True)
                hold(isinstance(file, ServiceError) or file == plain, "other bytes than Python's")
    else:
        whole = b"".join(len(one).to_bytes(4, "little") + one for one in files)  # type: ignore[arg-type,operator]
        hold(whole == binary, "the elements are not what was sent")


def _listed(request: tensors.InferRequest) -> list[Any]:
    listed: list[Any] = json.loads(_text(request.inputs[0]))
    return listed


def _text(one: tensors.RequestInput) -> bytes:
    return bytes(cast(msgspec.Raw, one.data))


def _hold_answer(
    request: tensors.InferRequest, wanted: tensors.Wanted, accepted: bytes, images: int
) -> None:
    rows = np.linspace(0, 1, images * len(_CLASSES), dtype=np.float32).reshape(images, -1)
    said, behind = tensors.response(_MODEL, request, rows)
    (output,) = json.loads(said)["outputs"]
    many = min(wanted.classes, len(_CLASSES)) or len(_CLASSES)
    hold(output["shape"] == [images, many], f"the shape is {output['shape']}")
    hold(wanted.binary == ("data" not in output), "in another form than was asked for")
    if not wanted.classes:
        read = np.frombuffer(behind, "<f4") if wanted.binary else output["data"]
        hold(np.array_equal(np.float32(read), rows.ravel()), "other probabilities")
    packed, fields = open_inference.compressed(accepted, said + behind)
    plain = zlib.decompress(packed, zlib.MAX_WBITS + 32) if fields else packed
    hold(plain == said + behind, "packed, it is another answer")


def _requests() -> Iterator[bytes]:
    pixels = bytes(range(18))
    nested = np.frombuffer(pixels, np.uint8).reshape(1, *_SHAPE).tolist()
    text = base64.b64encode(pixels).decode()
    images: dict[str, Any] = {"name": "images", "shape": [1, *_SHAPE], "datatype": "UINT8"}
    files: dict[str, Any] = {"name": "image_files", "shape": [2], "datatype": "BYTES"}
    outputs: list[dict[str, Any]] = [
        {},
        {"id": "7", "outputs": [{"name": "probabilities"}]},
        {"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]},
        {"parameters": {"binary_data_output": True}},
    ]
    inputs = (
        images | {"data": [*pixels]},
        images | {"data": nested},
        images | {"shape": [2, *_SHAPE], "data": nested * 2},
        files | {"data": [text, text.rstrip("=")]},
        files | {"shape": [2, 1], "data": [[text], ["?"]]},
        images | {"shape": [2**63 - 1, *_SHAPE], "data": []},
        images | {"data": [[], [[]]]},
        images | {"parameters": {"shared_memory_region": "a"}},
    )
    for one in inputs:
        yield b"\ngzip\n" + json.dumps({"inputs": [one]}).encode()
    elements = b"".join(len(one).to_bytes(4, "little") + one for one in (pixels, b""))
    for more in outputs:
        for one, binary in ((images, pixels), (files, elements)):
            size = {"parameters": {"binary_data_size": len(binary)}}
            head = json.dumps({"inputs": [one | size], **more}).encode()
            yield b"%d\ndeflate, gzip;q=0\n" % len(head) + head + binary
            yield b"%d\n\n" % len(head) + head + binary[:-1]


_TENSOR_WORDS = (
    *(b'"inputs"', b'"images"', b'"image_files"', b'"shape"', b'"datatype"', b'"UINT8"'),
    *(b'"BYTES"', b'"data"', b'"parameters"', b'"binary_data_size"', b'"binary_data_output"'),
    *(b'"outputs"', b'"probabilities"', b'"binary_data"', b'"classification"', b'"id"'),
    *(b"[[[[", b"]]]]", b"1e2", b"255", b"256", b"-1", b"1.0", b"true", b"null", b"\\ud800"),
    *(b"\xff\xff\xff\xff", b"gzip", b"deflate", b";q=0", b"9223372036854775807"),
)

INFERENCE = Target("inference", _infer, _requests, 2048, _TENSOR_WORDS)
