"""Captured answers on Lambda: they leave behind an answer and at the end, copies by own names."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common.captures import Captures
from common.objects import FolderStore
from serve.aws_lambda.lifecycle import one_pixel_event
from tests.helpers.waiting import wait_until
from tests.serve.aws_lambda.local_function import LocalFunction, local_function
from tests.serve.serving import base64_of, image_file, pixels

BODY = json.dumps({"image": base64_of(image_file(pixels()))}).encode()
ALL = {"KILN_CAPTURE_SHARE": "1", "KILN_FLUSH_MS": "20000"}


def variables(folder: Path, **more: str) -> dict[str, str]:
    return {"KILN_CAPTURE": str(folder / "captures"), **ALL, **more}


def rows(folder: Path) -> list[Any]:
    return list(Captures(FolderStore(folder / "captures")).rows())


def batches(folder: Path) -> list[str]:
    return [one.key for one in FolderStore(folder / "captures").entries("captures/")]


def predict(function: LocalFunction, times: int = 1) -> list[str]:
    answers = [function.ask("POST", "/predict", BODY) for _ in range(times)]
    assert {status for status, _ in answers} == {200}
    return [answer["request_id"] for _, answer in answers]


def test_a_full_batch_leaves_behind_the_call_that_filled_it(tmp_path: Path) -> None:
    with local_function(tmp_path, variables(tmp_path, KILN_CAPTURE_ROWS="3")) as function:
        function.freeze_after_each_answer()
        ids = predict(function, 2)
        assert not rows(tmp_path)
        ids += predict(function)
        # The process is frozen for good: what has not been written by now never will be.
        assert [row.request_id for row in rows(tmp_path)] == ids


def test_an_old_batch_leaves_behind_the_next_call(tmp_path: Path) -> None:
    with local_function(tmp_path, variables(tmp_path, KILN_CAPTURE_AGE_S="1")) as function:
        function.freeze_after_each_answer()
        ids = predict(function)
        time.sleep(1.1)
        assert not rows(tmp_path)
        assert function.ask("GET", "/health")[0] == 200
        assert [row.request_id for row in rows(tmp_path)] == ids


def test_the_release_manager_s_own_calls_are_no_answers_to_callers(tmp_path: Path) -> None:
    with local_function(tmp_path, variables(tmp_path, KILN_CAPTURE_ROWS="1")) as function:
        own = function.api.invoke(one_pixel_event())
        assert own["statusCode"] == 200
        ids = predict(function)
        assert [row.request_id for row in rows(tmp_path)] == ids
        label = {"request_id": ids[0], "label": "cat"}
        assert function.ask("POST", "/feedback", json.dumps(label).encode())[0] == 401


def test_sigterm_writes_what_is_left(tmp_path: Path) -> None:
    with local_function(tmp_path, variables(tmp_path)) as function:
        function.freeze_after_each_answer()
        ids = predict(function, 3)
        function.process.send_signal(signal.SIGTERM)
        function.process.send_signal(signal.SIGCONT)
        assert function.process.wait(60) == -signal.SIGTERM
    assert [row.request_id for row in rows(tmp_path)] == ids


def test_a_place_that_cannot_be_written_costs_no_answer_and_few_calls_their_time(
    tmp_path: Path,
) -> None:
    (tmp_path / "captures").write_text("no folder")
    with local_function(tmp_path, variables(tmp_path, KILN_CAPTURE_ROWS="1")) as function:
        predict(function, 5)
        log = function.log.read_text()
    assert log.count("captures cannot be written") == 1


def test_a_copy_of_a_snapshot_captures_its_own_answers_and_no_warm_up(tmp_path: Path) -> None:
    snapshot = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
    given = variables(tmp_path, KILN_CAPTURE_ROWS="1") | snapshot
    with local_function(tmp_path, given) as function:
        assert function.api.snapshot_ready.wait(120), function.api.init_errors
        assert not rows(tmp_path)
        function.api.restore()
        ids = predict(function, 2)
        assert not function.api.restore_errors
        assert [row.request_id for row in rows(tmp_path)] == ids


def test_clients_of_one_environment_write_under_names_of_their_own(tmp_path: Path) -> None:
    given = variables(tmp_path, AWS_LAMBDA_MAX_CONCURRENCY="3", KILN_CAPTURE_ROWS="2")
    with local_function(tmp_path, given) as function:
        with ThreadPoolExecutor(3) as callers:
            ids = [
                one
                for found in callers.map(lambda _: predict(function), range(24))
                for one in found
            ]
        function.process.send_signal(signal.SIGTERM)
        function.process.wait(60)
        wait_until(lambda: len(rows(tmp_path)) == 24)
    assert sorted(row.request_id for row in rows(tmp_path)) == sorted(ids)
    keys = batches(tmp_path)
    assert len({os.path.basename(key) for key in keys}) == len(keys) >= 12
