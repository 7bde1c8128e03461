"""serve/http/bodies.py: bodies as the world writes them, and what is refused in them."""

import base64
import gzip
import json
import textwrap
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.serve.serving import base64_of, client, image_file, pixels, problem_of

# Its base64 has both characters in which the alphabets differ, and padding.
PNG = next(
    file
    for file in (image_file(pixels(seed)) for seed in range(100))
    if {"+", "/"} <= set(base64_of(file)) and base64_of(file).endswith("=")
)
TEXT = base64_of(PNG)
BODY = json.dumps({"image": TEXT}).encode()
JSON = {"content-type": "application/json"}
LIMIT = 400_000


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    with client(max_body_bytes=LIMIT, deadline_ms=600_000) as running:
        yield running


@pytest.fixture(scope="module")
def expected(service: TestClient) -> Any:
    return service.post("/predict", json={"image": TEXT}).json()["top_k"]


def lines(text: str, end: str) -> str:
    return end.join(textwrap.wrap(text, 76))


WRITTEN: dict[str, str] = {
    "base64 photo.jpg": lines(TEXT, "\n") + "\n",
    "MIME": lines(TEXT, "\r\n") + "\r\n",
    "a last line end": TEXT + "\n",
    "spaces around": f"  {TEXT}\t",
    "URL-safe": base64.urlsafe_b64encode(PNG).decode(),
    "no padding": TEXT.rstrip("="),
    "URL-safe without padding": base64.urlsafe_b64encode(PNG).decode().rstrip("="),
    "data URL": f"data:image/png;base64,{TEXT}",
    "DATA URL": f"DATA:IMAGE/PNG;BASE64,{TEXT}",
    "data URL in lines": f"data:image/png;base64,{lines(TEXT, chr(10))}",
    "data URL with parameters": f"data:image/png;name=a.png;base64,{TEXT}",
    "data URL with spaces": f"data:image/png; base64, {TEXT}",
    "data URL with escapes": "data:image/png;base64,"
    + TEXT.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_base64_as_the_world_writes_it(service: TestClient, expected: Any, written: str) -> None:
    one = service.post("/predict", json={"image": WRITTEN[written]})
    assert one.status_code == 200, one.text
    assert one.json()["top_k"] == expected
    many = service.post("/predict/batch", json={"images": [WRITTEN[written], TEXT]}).json()
    assert [item["prediction"]["top_k"] for item in many["results"]] == [expected, expected]


@pytest.mark.parametrize(
    "text", ["*" * 8, TEXT + "=", TEXT[:-1] + "===", TEXT[:9] + "=" + TEXT[9:], "A", "AAAAA", "é"]
)
def test_what_is_no_base64_is_refused(service: TestClient, text: str) -> None:
    problem = problem_of(service.post("/predict", json={"image": text}))
    assert (problem["status"], problem["field"]) == (422, "image")


def bare_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKED: dict[str, tuple[str, bytes]] = {
    "gzip": ("gzip", gzip.compress(BODY)),
    "GZIP": ("GZIP", gzip.compress(BODY)),
    "x-gzip": ("x-gzip", gzip.compress(BODY)),
    "gzip of two members": ("gzip", gzip.compress(BODY[:99]) + gzip.compress(BODY[99:])),
    "deflate": ("deflate", zlib.compress(BODY)),
    "deflate without a frame": ("deflate", bare_deflate(BODY)),
    "identity": ("identity", BODY),
}


@pytest.mark.parametrize("packed", PACKED)
def test_a_body_may_be_compressed(service: TestClient, expected: Any, packed: str) -> None:
    encoding, body = PACKED[packed]
    headers = {**JSON, "content-encoding": encoding}
    answer = service.post("/predict", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["top_k"] == expected


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_a_body_unpacks_to_has_the_limit_of_a_body(service: TestClient, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    headers = {**JSON, "content-encoding": encoding}
    for size, status in ((LIMIT, 400), (LIMIT + 1, 413), (10_000_000, 413)):
        answer = service.post("/predict", content=pack(b" " * size), headers=headers)
        assert problem_of(answer)["status"] == status
    halves = gzip.compress(b" " * LIMIT) * 2
    two = service.post("/predict", content=halves, headers={**JSON, "content-encoding": "gzip"})
    assert two.status_code == 413


@pytest.mark.parametrize(
    ("encoding", "body", "status", "kind"),
    [
        ("gzip", BODY, 400, "malformed-encoding"),
        ("gzip", gzip.compress(BODY)[:-9], 400, "malformed-encoding"),
        ("gzip", b"", 400, "malformed-encoding"),
        ("gzip", gzip.compress(BODY) + b"more", 400, "malformed-encoding"),
        ("deflate", b"\xff" * 99, 400, "malformed-encoding"),
        ("deflate", b"", 400, "malformed-encoding"),
        ("br", BODY, 415, "unsupported-media-type"),
        ("zstd", BODY, 415, "unsupported-media-type"),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415, "unsupported-media-type"),
    ],
)
def test_what_cannot_be_unpacked_is_refused(
    service: TestClient, encoding: str, body: bytes, status: int, kind: str
) -> None:
    headers = {**JSON, "content-encoding": encoding}
    problem = problem_of(service.post("/predict", content=body, headers=headers))
    assert (problem["status"], problem["type"]) == (status, f"urn:kiln:problem:{kind}")


def test_json_may_begin_with_a_byte_order_mark(service: TestClient, expected: Any) -> None:
    answer = service.post("/predict", content=b"\xef\xbb\xbf" + BODY, headers=JSON)
    assert answer.json()["top_k"] == expected


@pytest.mark.parametrize(
    ("top_k", "status"),
    [
        *((whole, 200) for whole in ("3.0", "3e0", "0.3e1", "1e3")),
        *((other, 422) for other in ("3.5", "0.0", "-0.0", "1001.0", "true", "null", '"3"')),
        ("True", 400),
    ],
)
def test_an_integer_is_what_json_takes_for_one(
    service: TestClient, top_k: str, status: int
) -> None:
    for path, image in (("/predict", f'"image":"{TEXT}"'), ("/predict/batch", '"images":["x"]')):
        body = f'{{{image},"top_k":{top_k}}}'
        answer = service.post(path, content=body, headers=JSON)
        assert answer.status_code == status, answer.text
        assert status != 422 or answer.json()["field"] == "top_k"


@pytest.mark.parametrize("flag", ["true", "True", "TRUE"])
def test_flags_in_a_query_are_as_clients_write_them(service: TestClient, flag: str) -> None:
    answer = service.post(f"/predict?probabilities={flag}&top_k=1.0", content=PNG)
    assert len(answer.json()["probabilities"]) == 10


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/predict?topk=1", "topk"),
        ("/predict?top_k=1&x=", "x"),
        ("/predict?Top_k=1", "Top_k"),
        ("/predict/batch?saliency=true", "saliency"),
        ("/predict/batch?images=x", "images"),
    ],
)
def test_an_option_that_is_not_known_is_refused(service: TestClient, path: str, field: str) -> None:
    batch = "batch" in path
    bodies: list[dict[str, Any]] = [
        {"json": {"images": [TEXT]} if batch else {"image": TEXT}},
        {"files": {"images" if batch else "image": ("a.png", PNG)}},
        *([] if batch else [{"content": PNG}]),
    ]
    for body in bodies:
        problem = problem_of(service.post(path, **body))
        assert (problem["status"], problem["field"]) == (422, field)


@pytest.mark.parametrize("text", ["photo.jpg", "{}", ""])
def test_a_field_of_text_is_no_file_of_a_form(service: TestClient, text: str) -> None:
    for path, name in (("/predict", "image"), ("/predict/batch", "images")):
        problem = problem_of(service.post(path, files={name: (None, text)}))
        assert problem["status"] == 422
        assert problem["field"].startswith(name)
        assert "@" in problem["detail"]
        as_file = service.post(path, files={name: ("photo.jpg", text)})
        assert as_file.status_code == (415 if name == "image" else 200)
        image = service.post(path, files={name: (None, PNG)})
        assert image.status_code == 200


@pytest.mark.parametrize("around", [b"This is a form.\r\n", b"a\r\n\r\n--\r\n", b"\r\n", b"\n"])
def test_a_form_may_have_a_preamble_and_an_epilogue(
    service: TestClient, expected: Any, around: bytes
) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + PNG + b"\r\n--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = service.post("/predict", content=around + part + around, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["top_k"] == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"image":"\\ud800"}',
        b'{"\\ud800":1}',
        b'{"image":"\\udc00\\ud800"}',
        b'{"image":"\xed\xa0\x80"}',
        b'{"top_k":"\\ud800","image":"x"}',
    ],
)
def test_half_a_character_is_refused(service: TestClient, body: bytes) -> None:
    for path in ("/predict", "/predict/batch"):
        assert problem_of(service.post(path, content=body, headers=JSON))["status"] in (400, 422)


@pytest.mark.parametrize(
    "kind",
    [
        "binary/octet-stream",
        "application/octet-stream",
        "image/jpg",
        "application/x-www-form-urlencoded",  # of curl --data-binary, wget --post-file and others
    ],
)
def test_a_file_is_taken_under_any_name_that_clients_have_for_one(
    kind: str, service: TestClient, expected: Any
) -> None:
    answer = service.post("/predict", content=PNG, headers={"content-type": kind})
    assert answer.json()["top_k"] == expected


@pytest.mark.parametrize("kind", ["text/json", "application/x-www-form-urlencoded"])
def test_json_is_taken_under_its_old_name_and_that_of_clients_who_name_none(
    kind: str, service: TestClient, expected: Any
) -> None:
    answer = service.post("/predict", content=BODY, headers={"content-type": kind})
    assert answer.json()["top_k"] == expected


@pytest.mark.parametrize("field", ["Content-Transfer-Encoding", "content-transfer-encoding"])
@pytest.mark.parametrize(
    ("encoding", "data"),
    [("base64", lines(TEXT, "\r\n").encode()), ("BASE64 ", TEXT.encode()), ("binary", PNG)],
)
def test_a_part_of_a_form_is_decoded_as_it_says(
    field: str, encoding: str, data: bytes, service: TestClient, expected: Any
) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n{field}: '
    body = head.encode() + encoding.encode() + b"\r\n\r\n" + data + b"\r\n--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert service.post("/predict", content=body, headers=headers).json()["top_k"] == expected


def test_a_part_that_is_no_base64_though_it_says_so_is_refused(service: TestClient) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
    body = head + b"Content-Transfer-Encoding: base64\r\n\r\nabcde\r\n--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = service.post("/predict", content=body, headers=headers)
    assert answer.status_code == 400
    assert problem_of(answer)["type"] == "urn:kiln:problem:malformed-form"
