"""The built image as a Lambda function, driven through the Runtime API."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.twin.cloud.runtime_api import FunctionError, TimedOut
from infra.twin.image.container import Root
from tests.serve.aws_lambda.events import (
    Door,
    function_url,
    http_api,
    load_balancer,
    rest_api,
    status_and_json,
)
from tests.serve.aws_lambda.function import Function, function
from tests.serve.image import built
from tests.serve.serving import base64_of, image_file, pixels

pytestmark = built.needs_image
root = built.root

DOORS = [http_api, rest_api, function_url, load_balancer]
IMAGE = image_file(pixels())
BODY = json.dumps({"image": base64_of(IMAGE)}).encode()
JSON = {"content-type": "application/json"}
READY = http_api("GET", "/ready")


@pytest.fixture(scope="module")
def warm(root: Root) -> Iterator[Function]:
    with function(root) as warm:
        yield warm


@pytest.fixture(scope="module")
def label(warm: Function) -> str:
    status, answer = status_and_json(warm.api.invoke(http_api("POST", "/predict", BODY, JSON)))
    assert status == 200, answer
    return str(answer["label"])


def test_a_cold_start_answers(root: Root, tmp_path: Path) -> None:
    took_ms = []
    for _ in range(3):
        start = time.perf_counter()
        with function(root) as cold:
            status, _ = status_and_json(cold.api.invoke(READY))
            took_ms.append(round(1000 * (time.perf_counter() - start)))
        assert status == 200
    # For people to read: `bazel-testlogs/…/test.outputs`.
    folder = Path(os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", tmp_path))
    (folder / "cold_start.json").write_text(json.dumps({"cold_start_ms": took_ms}))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("encoded", [False, True])
def test_every_door_leads_to_the_same_prediction(
    warm: Function, label: str, door: Door, encoded: bool
) -> None:
    event = door("POST", "/predict", BODY, JSON, encoded=encoded)
    status, answer = status_and_json(warm.api.invoke(event))
    assert (status, answer.get("label")) == (200, label), answer


@pytest.mark.parametrize("door", DOORS)
def test_an_image_itself_may_be_the_body(warm: Function, label: str, door: Door) -> None:
    event = door("POST", "/predict", IMAGE, {"content-type": "image/png"}, encoded=True)
    status, answer = status_and_json(warm.api.invoke(event))
    assert (status, answer.get("label")) == (200, label), answer


@pytest.mark.parametrize("door", DOORS)
def test_a_body_of_no_type_is_told_so_or_served(warm: Function, door: Door) -> None:
    # API Gateway encodes what has no type.
    status, answer = status_and_json(warm.api.invoke(door("POST", "/predict", BODY, encoded=True)))
    assert status in (200, 415), answer
    if status == 415:
        assert answer["status"] == 415


@pytest.mark.parametrize("door", DOORS)
def test_a_mistake_is_the_callers_and_no_error_of_the_function(warm: Function, door: Door) -> None:
    event = door("POST", "/predict", b'{"image": "%%%"}', JSON)
    status, answer = status_and_json(warm.api.invoke(event))
    assert 400 <= status < 500
    assert answer["status"] == status


def test_stages_are_prefixes_that_the_service_can_be_told_of(root: Root) -> None:
    with function(root, {"KILN_ROOT_PATH": "/prod"}) as staged:
        for event in (
            http_api("POST", "/predict", BODY, JSON, stage="prod"),
            rest_api("POST", "/predict", BODY, JSON, stage="prod"),
        ):
            status, answer = status_and_json(staged.api.invoke(event))
            assert status == 200, answer


def test_a_hundred_images_fit_one_call(warm: Function) -> None:
    body = json.dumps({"images": [base64_of(IMAGE)] * 100}).encode()
    status, answer = status_and_json(
        warm.api.invoke(http_api("POST", "/predict/batch", body, JSON))
    )
    assert status == 200
    assert len(answer["results"]) == 100


def test_a_frozen_process_goes_on_where_it_was(root: Root) -> None:
    with function(root) as one:
        for _ in range(3):
            assert status_and_json(one.api.invoke(READY))[0] == 200
            one.container.freeze()
            time.sleep(0.05)
            one.container.thaw()


def test_a_call_that_hangs_times_out_and_a_new_process_answers(root: Root) -> None:
    with function(root) as hanging:
        hanging.api.invoke(READY)
        hanging.container.freeze()
        with pytest.raises(TimedOut):
            hanging.api.invoke(READY, timeout_s=0.2)
    with function(root) as fresh:
        assert status_and_json(fresh.api.invoke(READY))[0] == 200


def test_an_exception_is_reported_and_the_next_call_answered(root: Root) -> None:
    with function(root, arguments=["json.loads"]) as failing:
        for _ in range(2):
            with pytest.raises(FunctionError) as caught:
                failing.api.invoke({})
            assert caught.value.kind == "TypeError"
            assert "2 were given" in caught.value.report["errorMessage"]


def test_a_handler_that_is_not_there_fails_the_start(root: Root) -> None:
    with function(root, arguments=["serve.nowhere.handler"]) as broken:
        assert broken.container.process.wait(60) == 1
        (error,) = broken.api.init_errors
    assert error.kind == "Runtime.ImportModuleError"
    assert "serve.nowhere" in error.report["errorMessage"]


def test_a_model_that_cannot_be_served_fails_the_start(root: Root) -> None:
    with function(root, {"KILN_MODEL": "/etc/passwd"}) as broken:
        assert broken.container.process.wait(60) == 1
        (error,) = broken.api.init_errors
    assert "/etc/passwd" in error.report["errorMessage"]


def test_sigterm_ends_an_idle_process(root: Root) -> None:
    with function(root) as idle:
        idle.api.invoke(READY)
        idle.container.terminate()
        assert idle.container.process.wait(10) == 128 + 15


def test_a_snapshot_is_taken_warm_and_its_copy_answers(root: Root) -> None:
    with function(root, {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}) as copied:
        assert copied.api.snapshot_ready.wait(60), copied.api.init_errors
        assert not copied.api.waits.is_set()  # it asks for no event before it is restored
        copied.container.freeze()
        time.sleep(0.05)
        copied.container.thaw()
        copied.api.restore()
        assert status_and_json(copied.api.invoke(READY))[0] == 200
        assert not copied.api.restore_errors
