"""What a caller with a key can do by /feedback: nothing but label what was kept."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.http.keys import digest_of
from tests.helpers.waiting import wait_until
from tests.serve.abuse.attacks import KEY
from tests.serve.abuse.wire import GOOD, Target, target

JSON, RIGHT = b"Content-Type: application/json", b"X-API-Key: " + KEY.encode()
UP = "../" * 8
IDS = {
    "a path": UP + "etc/passwd",
    "a path of the right length": (UP + UP)[:32],
    "an absolute path": "/" + "0" * 31,
    "a key of the store": "captures/2026-11-30/12/x-000000.",
    "letters of another alphabet": "а" * 32,
    "capitals": "A" * 32,
    "a line end behind": "0" * 32 + "\n",
    "a NUL": "0" * 31 + "\0",
    "a percent": "%2e%2e%2f" * 3 + "00000",
    "nothing": "",
    "no string": 7,
    "a list": ["0" * 32],
}
KEPT = {"captures", "labels"}
LABELS = {
    "a path": UP + "cat",
    "a class in capitals": "CAT",
    "a line of a log": 'cat\n{"level": "error"}',
    "a megabyte": "c" * 2**20,
    "no string": {"name": "cat"},
    "nothing": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback") / "store"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Target]:
    variables = {"KILN_CAPTURE": str(folder), "KILN_CAPTURE_SHARE": "1", "KILN_CAPTURE_ROWS": "1"}
    with target(KILN_API_KEYS=digest_of(KEY.encode()), **variables) as up:
        yield up


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def said(server: Target, **body: object) -> tuple[int, str]:
    answer = server.ask("POST", "/feedback", json.dumps(body).encode(), JSON, RIGHT)
    return answer.status, json.loads(answer.body).get("type", "")


@pytest.mark.parametrize("name", IDS)
def test_an_id_that_is_none_reaches_no_store(server: Target, folder: Path, name: str) -> None:
    assert said(server, request_id=IDS[name], label="cat")[0] == 422
    assert not (folder / "labels").exists()


@pytest.mark.parametrize("name", LABELS)
def test_a_label_that_is_no_class_is_not_kept(server: Target, folder: Path, name: str) -> None:
    assert said(server, request_id="0" * 32, label=LABELS[name])[0] == 422
    assert not (folder / "labels").exists()


def test_a_good_label_is_kept_below_the_store_and_names_no_key(
    server: Target, folder: Path
) -> None:
    answer = server.ask("POST", "/predict", GOOD, JSON, RIGHT)
    request_id = json.loads(answer.body)["request_id"]
    assert said(server, request_id=request_id, label="cat")[0] == 201
    wait_until(lambda: {path.relative_to(folder).parts[0] for path in _files(folder)} == KEPT)
    files = _files(folder)
    (label,) = (folder / "labels").rglob("*.json")
    assert re.fullmatch(r"feedback-[0-9a-f]{12}-000\.json", label.name)
    assert KEY.encode() not in b"".join(path.read_bytes() for path in files)
    assert digest_of(KEY.encode()) not in "".join(str(path) for path in files) + label.read_text()
