"""A target with a mistake in it, which chance alone would take long to find."""

from benchmarks.fuzz.targets import Target
from serve.http.bodies import read_form


def _call(data: bytes) -> None:
    if data[:1] == b"K" and read_form(b"multipart/form-data; boundary=b", b"--b--\r\n") == []:
        raise ZeroDivisionError("the planted mistake")


PLANTED = Target("planted", _call, lambda: iter([b"harmless"]), 64, (b"K",))
BEGUN_WRONG = Target("planted", _call, lambda: iter([b"K"]), 64)
