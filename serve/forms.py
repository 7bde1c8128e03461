"""Bodies of multipart/form-data, which are in memory already."""

import logging
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serve.errors import MalformedForm
from serve.settings import MAX_IMAGES

# It warns of every odd byte in a form; the caller is told, and the log is not theirs to fill.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

_MAX_PARTS = MAX_IMAGES + 10


class Part(NamedTuple):
    """A field of the form."""

    name: str
    data: bytes


class _Reader:
    """Collects parts from the parser's callbacks, which name places within a buffer."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._field = self._value = self._disposition = b""
        self._data = bytearray()

    def on_part_begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise MalformedForm(f"the form has more than {_MAX_PARTS} parts", field="body")
        self._disposition, self._data = b"", bytearray()

    def on_header_begin(self) -> None:
        self._field = self._value = b""

    def on_header_field(self, buffer: bytes, start: int, end: int) -> None:
        self._field += buffer[start:end]

    def on_header_value(self, buffer: bytes, start: int, end: int) -> None:
        self._value += buffer[start:end]

    def on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value

    def on_part_data(self, buffer: bytes, start: int, end: int) -> None:
        self._data += buffer[start:end]

    def on_part_end(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"")
        self.parts.append(Part(name.decode("utf-8", "replace"), bytes(self._data)))

    def on_end(self) -> None:
        self.ended = True


def read_form(content_type: bytes, body: bytes) -> list[Part]:
    """The parts of a form, in their order.

    Raises:
        MalformedForm: says what is wrong with it.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedForm("the content type names no boundary", field="content-type")
    reader = _Reader()
    callbacks = {name: getattr(reader, name) for name in dir(reader) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # all of them at once
        parser.write(body)
        parser.finalize()
    except FormParserError as exc:
        raise MalformedForm(str(exc), field="body") from exc
    if not reader.ended:
        raise MalformedForm("the form does not end with its boundary", field="body")
    return reader.parts
