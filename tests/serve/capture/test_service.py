"""Capture in the real server: its processes, its end, a kill, and a folder that cannot be used."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from common.captures import Captures
from common.objects import FolderStore
from serve.http.keys import digest_of
from tests.helpers.waiting import wait_until
from tests.serve.server_process import Server, running
from tests.serve.serving import base64_of, image_file, pixels

BODY = json.dumps({"image": base64_of(image_file(pixels())), "saliency": True})
PLAIN = json.dumps({"image": base64_of(image_file(pixels(1)))})
ALL = {"KILN_CAPTURE_SHARE": "1", "KILN_DEADLINE_MS": "60000", "OTEL_SDK_DISABLED": "true"}


def rows(folder: Path) -> list[Any]:
    return list(Captures(FolderStore(folder)).rows())


def asked(server: Server, count: int) -> list[str]:
    """Ids of so many requests."""
    answers = [server.ask("POST", "/predict", PLAIN) for _ in range(count)]
    assert {status for status, _ in answers} == {200}
    return [answer["request_id"] for _, answer in answers]


def test_the_end_writes_what_every_process_has_in_memory(tmp_path: Path) -> None:
    with running(2, KILN_CAPTURE=str(tmp_path), **ALL) as server:
        ids = asked(server, 12)
        status, explained = server.ask("POST", "/predict", BODY)
        assert (status, len(explained["saliency"])) == (200, 8)
        assert server.ask("GET", "/ready")[0] == 200
        assert not rows(tmp_path)  # none is a minute old, and no process has 500
    found = rows(tmp_path)
    assert sorted(row.request_id for row in found) == sorted([*ids, explained["request_id"]])
    writers = {one.key.split("/")[-1] for one in FolderStore(tmp_path).entries("captures/")}
    assert len(writers) <= 2  # a batch of each process that was asked


def test_a_kill_loses_at_most_what_is_in_memory(tmp_path: Path) -> None:
    with running(1, KILN_CAPTURE=str(tmp_path), KILN_CAPTURE_ROWS="5", **ALL) as server:
        ids = asked(server, 5)
        wait_until(lambda: len(rows(tmp_path)) == 5)
        asked(server, 3)  # no batch yet
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(60)
    assert [row.request_id for row in rows(tmp_path)] == ids
    assert not FolderStore(tmp_path).unfinished()


def test_a_disk_that_is_full_costs_one_line_and_no_answer(tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    folder.write_text("no folder can be made here, as on a disk that is full")
    with running(1, KILN_CAPTURE=str(folder), KILN_CAPTURE_ROWS="1", **ALL) as server:
        asked(server, 8)
        folder.unlink()  # there is room again
        wait_until(lambda: len(rows(folder)) == 8)
        os.kill(server.process.pid, signal.SIGTERM)
        _, log = server.process.communicate(timeout=60)
    lines = [json.loads(line) for line in log.splitlines()]
    said = [line["message"] for line in lines if "captures" in line["message"]]
    assert said == [
        "captures cannot be written; answers are not affected",
        "captures are written again",
    ]


def test_a_label_of_another_process_s_answer_is_taken_once_that_is_written(tmp_path: Path) -> None:
    key = "kiln_key"
    more = {"KILN_CAPTURE_AGE_S": "1", "KILN_API_KEYS": digest_of(key.encode())}
    with running(2, KILN_CAPTURE=str(tmp_path), **ALL, **more) as server:

        def ask(path: str, body: str) -> tuple[int, Any]:
            return server.ask("POST", path, body, {"x-api-key": key})

        ids = [ask("/predict", PLAIN)[1]["request_id"] for _ in range(6)]
        for one in ids:
            label = json.dumps({"request_id": one, "label": "cat"})
            wait_until(lambda label=label: ask("/feedback", label)[0] in (200, 201))  # type: ignore[misc]
    assert {label.key for label in Captures(FolderStore(tmp_path)).labels()} == {
        (one, 0) for one in ids
    }
