"""Parses request bodies: JSON, a raw image, or a multipart form."""

import asyncio
import binascii
import logging
import re
import zlib
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from common.images import image_type, other_type
from serve.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientLeft,
    InvalidField,
    MalformedEncoding,
    MalformedForm,
    MalformedJson,
    ServiceError,
    UnsupportedMediaType,
)
from serve.exchange import WHOLE
from serve.http.middleware import header
from serve.http.schemas import BatchRequest, PredictRequest
from serve.settings import MAX_IMAGES, Settings

# It warns about every odd byte of a form; callers must not be able to fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)
_MAX_PARTS = MAX_IMAGES + 10


class Part(NamedTuple):
    name: str
    data: bytes
    is_file: bool = False  # it has a file name, or a type other than text


class _Reader:
    """Collects parts from the parser's callbacks, which give positions within a buffer."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._field = self._value = self._disposition = self._type = self._encoding = b""
        self._data = bytearray()

    def on_part_begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise MalformedForm(f"the form has more than {_MAX_PARTS} parts", field="body")
        self._disposition, self._type, self._data = b"", b"text/plain", bytearray()
        self._encoding = b""

    def on_header_begin(self) -> None:
        self._field = self._value = b""

    def on_header_field(self, buffer: bytes, start: int, end: int) -> None:
        self._field += buffer[start:end]

    def on_header_value(self, buffer: bytes, start: int, end: int) -> None:
        self._value += buffer[start:end]

    def on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        elif self._field.lower() == b"content-type":
            self._type = self._value.strip().lower()
        elif self._field.lower() == b"content-transfer-encoding":
            self._encoding = self._value.strip().lower()

    def on_part_data(self, buffer: bytes, start: int, end: int) -> None:
        self._data += buffer[start:end]

    def on_part_end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        name = options.get(b"name", b"").decode("utf-8", "replace")
        is_file = b"filename" in options or not self._type.startswith(b"text/plain")
        data = bytes(self._data)
        if self._encoding == b"base64":  # as in mail, and in clients that encode forms like mail
            try:
                data = binascii.a2b_base64(data)
            except ValueError as exc:
                detail = f"the part {name} is not valid base64: {str(exc).lower()}"
                raise MalformedForm(detail, field="body") from exc
        self.parts.append(Part(name, data, is_file))

    def on_end(self) -> None:
        self.ended = True


def read_form(content_type: bytes, body: bytes) -> list[Part]:
    """The parts of a form, in their order.

    Raises:
        MalformedForm: the message says what is wrong.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedForm("the content type names no boundary", field="content-type")
    reader = _Reader()
    callbacks = {name: getattr(reader, name) for name in dir(reader) if name.startswith("on_")}
    start = 0 if body.startswith(b"--" + boundary) else body.find(b"\n--" + boundary) + 1
    body = body[start:]  # the preamble is to be ignored (RFC 2046, 5.1.1)
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # all of them at once
        parser.write(body)
        parser.finalize()
    except FormParserError as exc:
        raise MalformedForm(str(exc), field="body") from exc
    if not reader.ended:
        raise MalformedForm("the form does not end with its boundary", field="body")
    return reader.parts


_PREDICT = msgspec.json.Decoder(PredictRequest)
_BATCH = msgspec.json.Decoder(BatchRequest)
_MEDIA_TYPES = "application/json, image/* or multipart/form-data"


class Options(NamedTuple):
    """Options of the response."""

    top_k: int = 3
    probabilities: bool = False
    saliency: bool = False


class Upload(NamedTuple):
    """An image file, or the reason why there is none; `field` is its name in the request."""

    field: str
    data: bytes | ServiceError


async def read_body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """The whole body, decompressed if necessary.

    Raises:
        BodyTooLarge: never holds more than the limit in memory.
        BodyTimeout: it did not arrive in time.
        UnsupportedMediaType: its content encoding is neither gzip nor deflate.
        MalformedEncoding: it is damaged.
    """
    encoding = header(scope, b"content-encoding")
    declared = header(scope, b"content-length")
    limit = settings.max_body_bytes
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(f"{int(declared)}", limit)
    try:
        if scope.get(WHOLE):
            body = await _whole_body(receive, limit)
        else:
            async with asyncio.timeout(settings.body_timeout_ms / 1e3):
                body = await _whole_body(receive, limit)
    except TimeoutError:
        raise BodyTimeout(
            f"expected the whole body within {settings.body_timeout_ms / 1e3:g} s"
        ) from None
    return body if encoding is None else _unpacked(body, encoding.strip().lower(), limit)


_ANY_WINDOW = 32  # detects gzip or zlib format by its header


def _unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnsupportedMediaType(
            f"the content encoding is {encoding.decode('latin-1')}, expected gzip or deflate",
            field="content-encoding",
            headers={"accept-encoding": "gzip, deflate"},
        )
    # Some clients send raw deflate: then the first byte is no valid zlib method.
    is_bare = encoding == b"deflate" and (not body or body[0] & 0x0F != zlib.DEFLATED)
    window = -zlib.MAX_WBITS if is_bare else zlib.MAX_WBITS | _ANY_WINDOW
    unpacked, rest = bytearray(), body
    try:
        while rest or not unpacked:
            unpacker = zlib.decompressobj(window)
            unpacked += unpacker.decompress(rest, limit + 1 - len(unpacked))
            if len(unpacked) > limit:
                raise _too_large("more", limit)
            if not unpacker.eof:
                raise zlib.error("it is truncated")
            rest = unpacker.unused_data  # the next member of a gzip file
            if not unpacked and not rest:
                break
    except zlib.error as exc:
        said = f"the body is not {encoding.decode()}: {exc}"
        raise MalformedEncoding(said, field="body") from exc
    return bytes(unpacked)


async def _whole_body(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        if len(body) > limit:
            raise _too_large("more", limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        if not message.get("more_body") and len(body) <= limit:
            return bytes(body)


def _too_large(size: str, limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has {size} bytes, expected at most {limit}", field="body")


def one_image(scope: Scope, body: bytes) -> tuple[Upload, Options]:
    """The image of a /predict request.

    Raises:
        ServiceError: names the field that is missing or wrong.
    """
    match media_type(scope, body):
        case "json":
            request = decoded(_PREDICT, body)
            # Says nothing about JSON, but malformed values are rejected.
            _query(scope, PREDICT_OPTIONS)
            return from_base64("image", request.image), Options(
                request.top_k, request.probabilities, request.saliency
            )
        case "image":
            return Upload("body", body), _query(scope, PREDICT_OPTIONS)
        case _:
            form = read_form(_content_type(scope), body)
            images = [part for part in form if part.name == "image"]
            if len(images) != 1:
                raise InvalidField(
                    f"the form has {len(images)} parts named image, expected one", field="image"
                )
            return _from_part("image", images[0]), _form_options(scope, form, PREDICT_OPTIONS)


def many_images(scope: Scope, body: bytes) -> tuple[list[Upload], Options]:
    """The images of a /predict/batch request; those with invalid base64 become errors at their
    index.

    Raises:
        ServiceError: names the field that is missing or wrong.
    """
    match media_type(scope, body):
        case "json":
            request = decoded(_BATCH, body)
            _query(scope, BATCH_OPTIONS)
            uploads = [from_base64(f"images[{i}]", image) for i, image in enumerate(request.images)]
            return uploads, Options(request.top_k, request.probabilities)
        case "image":
            raise UnsupportedMediaType(
                "expected application/json or multipart/form-data with up to "
                f"{MAX_IMAGES} parts named images; /predict takes a bare image",
                field="content-type",
            )
        case _:
            form = read_form(_content_type(scope), body)
            files = [part for part in form if part.name == "images"]
            if not 1 <= len(files) <= MAX_IMAGES:
                raise InvalidField(
                    f"the form has {len(files)} parts named images, expected 1 to {MAX_IMAGES}",
                    field="images",
                )
            uploads = [_from_part(f"images[{i}]", part) for i, part in enumerate(files)]
            return uploads, _form_options(scope, form, BATCH_OPTIONS)


def _from_part(field: str, part: Part) -> Upload:
    """The file in a form part.

    Raises:
        InvalidField: it is a text field, as when the @ of curl's option is missing.
    """
    if not (part.is_file or image_type(part.data) or other_type(part.data)):
        raise InvalidField(
            "expected a file, got a text field; curl sends a file as -F image=@photo.jpg", field
        )
    return Upload(field, part.data)


def from_base64(field: str, text: Any) -> Upload:
    """Decodes base64 or a data URL."""
    if not isinstance(text, str):
        return Upload(field, InvalidField("expected base64 in a string", field))
    if text[:5].lower() == "data:":
        beginning, comma, text = text.partition(",")
        if not comma or not re.search(r"; *base64 *$", beginning, re.IGNORECASE):
            return Upload(
                field, InvalidField("expected a data URL as data:image/png;base64,iVBO…", field)
            )
        text = unquote(text) if "%" in text else text
    try:
        return Upload(field, binascii.a2b_base64(text, strict_mode=True))
    except ValueError:
        pass
    try:
        return Upload(field, binascii.a2b_base64(_strict(text), strict_mode=True))
    except ValueError as exc:  # binascii.Error is one
        return Upload(field, InvalidField(f"expected base64: {str(exc).lower()}", field))


_FROM_URL_SAFE = str.maketrans("-_", "+/", " \t\r\n\f\v")


def _strict(text: str) -> str:
    """Normalises lenient base64 to RFC 4648, section 4: no line breaks, the standard alphabet
    instead of section 5's, padding.
    """
    text = text.translate(_FROM_URL_SAFE)
    return text if text.endswith("=") else text + "=" * (-len(text) % 4)


def media_type(scope: Scope, body: bytes) -> str:
    essence = _content_type(scope).partition(b";")[0].strip().lower()
    if essence in (b"application/json", b"text/json") or essence.endswith(b"+json"):
        return "json"
    if essence == b"multipart/form-data":
        return "form"
    if essence.startswith(b"image/") or essence in _ANY_FILE:
        return "image"
    if not essence and body:  # the caller did not specify a type
        return "image" if image_type(body) else "json"
    if essence == _DEFAULT_TYPE:  # of curl, wget and others for any body, or a form without a file
        if image_type(body):
            return "image"
        if body.lstrip().startswith(b"{"):
            return "json"
    said = essence.decode("latin-1") if essence else "nothing and an empty body"
    raise UnsupportedMediaType(
        f"the content type is {said}, expected {_MEDIA_TYPES}", field="content-type"
    )


_DEFAULT_TYPE = b"application/x-www-form-urlencoded"
_ANY_FILE = (b"application/octet-stream", b"binary/octet-stream")  # S3's default


def _content_type(scope: Scope) -> bytes:
    return header(scope, b"content-type") or b""


BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    body = body.removeprefix(BYTE_ORDER_MARK)
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as exc:
            if "Expected `int`, got `float`" not in str(exc):
                raise
            return _with_whole_numbers(decoder, body)
    except msgspec.ValidationError as exc:
        raise InvalidField(str(exc).partition(" - at ")[0], field=_field_of(str(exc))) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedJson(str(exc), field="body") from exc


def _with_whole_numbers(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Accepts 3.0 as an integer, as JSON Schema does and msgspec does not."""
    plain = {name: whole(value) for name, value in msgspec.json.decode(body).items()}
    return msgspec.convert(plain, decoder.type)


def whole(value: Any) -> Any:
    """3 for 3.0; others as they are."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


PREDICT_OPTIONS = Options._fields
BATCH_OPTIONS = ("top_k", "probabilities")


def _query(scope: Scope, known: tuple[str, ...]) -> Options:
    if not scope["query_string"]:
        return Options()
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return _options(dict(pairs), known)


def _form_options(scope: Scope, form: list[Part], known: tuple[str, ...]) -> Options:
    query = _query(scope, known)
    texts = {
        part.name: part.data.decode("latin-1") for part in form if part.name in Options._fields
    }
    return _options(texts, known) if texts else query


def _options(texts: dict[str, str], known: tuple[str, ...]) -> Options:
    for name in texts:
        if name not in known:
            raise InvalidField(f"there is no such option, expected {', '.join(known)}", field=name)
    top_k = re.fullmatch(r"([0-9]{1,4})(\.0+)?", texts.get("top_k", "3"))
    if not (top_k and 1 <= int(top_k[1]) <= 1000):
        raise InvalidField("expected a whole number from 1 to 1000", field="top_k")
    return Options(int(top_k[1]), _flag(texts, "probabilities"), _flag(texts, "saliency"))


def _flag(texts: dict[str, str], name: str) -> bool:
    text = texts.get(name, "false").lower()  # Python clients write True
    if text not in ("true", "false"):
        raise InvalidField("expected true or false", field=name)
    return text == "true"


def _field_of(problem: str) -> str:
    """The field named by msgspec's message: "… - at `$.top_k`", "… required field `image`"."""
    if place := re.search(r"at `\$\.?(.+)`$", problem) or re.search(r"field `(.+)`$", problem):
        return place[1]
    return "body"
