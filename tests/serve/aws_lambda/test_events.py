"""Events that no front door wrote, or not as it writes them: an answer, and never a traceback."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from serve.aws_lambda.invocation import Adapter
from serve.http.app import create_app
from serve.settings import Settings
from tests.serve.aws_lambda.events import (
    Door,
    function_url,
    http_api,
    load_balancer,
    rest_api,
)
from tests.serve.serving import base64_of, bundled_predictor, image_file, pixels

IMAGE = base64_of(image_file(pixels()))
BODY = json.dumps({"image": IMAGE}).encode()
JSON = {"content-type": "application/json"}
SCHEDULE = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "time": "2026-10-08T16:53:06Z",
    "region": "eu-central-1",
    "resources": ["arn:aws:events:eu-central-1:123456789012:rule/warm"],
    "detail": {},
}
WARM_UPS: dict[str, Any] = {
    "a schedule": SCHEDULE,
    "EventBridge's scheduler": {"source": "aws.scheduler"},
    "the Serverless framework's": {"source": "serverless-plugin-warmup"},
    "lambda-warmer's": {"warmer": True, "concurrency": 3},
    "nothing": {},
    "null": None,
    "an empty text": "",
}
WRONG: dict[str, Any] = {
    "a prediction": {"image": IMAGE},
    "a text": "hello",
    "a list": [1, 2],
    "a number": 7,
    "the test event of the console": {"key1": "value1", "key2": "value2"},
    "a queue's": {"Records": [{"eventSource": "aws:sqs", "body": "{}"}]},
    "a bucket's": {"Records": [{"eventSource": "aws:s3", "s3": {"object": {"key": "a.png"}}}]},
    "a topic's": {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "a"}}]},
    "no records": {"Records": []},
    "a context alone": {"requestContext": {}},
    "half an HTTP API's": {"version": "2.0", "requestContext": {}},
    "half a REST API's": {"resource": "/", "requestContext": None},
    "half a load balancer's": {"requestContext": {"elb": {}}},
    "half a character": {"\\ud800": "\\ud800"},
    "keys that are no text": {1: 2},
}


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    predictor = bundled_predictor()
    return Adapter(create_app(predictor, Settings(cpus=1, deadline_ms=600_000)), predictor.version)


def answer_to(adapter: Adapter, event: Any) -> tuple[int, Any]:
    answer = adapter(event, SimpleNamespace(aws_request_id="id"))
    json.dumps(answer).encode()  # as Lambda's client sends it
    return answer["statusCode"], json.loads(answer["body"])


@pytest.mark.parametrize("door", [http_api, rest_api, function_url, load_balancer])
def test_a_front_doors_event_is_a_request(adapter: Adapter, door: Any) -> None:
    status, answer = answer_to(adapter, door("POST", "/predict", BODY, JSON))
    assert status == 200
    assert answer["label"]


@pytest.mark.parametrize("name", WARM_UPS)
def test_a_warm_up_is_answered(adapter: Adapter, name: str) -> None:
    status, answer = answer_to(adapter, WARM_UPS[name])
    assert (status, answer["status"]) == (200, "warm")
    assert len(answer["model_version"]) == 64


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_request_is_refused_in_the_words_of_a_problem(
    adapter: Adapter, name: str
) -> None:
    status, problem = answer_to(adapter, WRONG[name])
    assert (status, problem["type"]) == (400, "urn:kiln:problem:bad-request")
    assert "API Gateway" in problem["detail"]


@pytest.mark.parametrize(
    "host", ["x:http", "x:", ":", "", "a b", "[::1", "x:99999999999", "\u00e9"]
)
@pytest.mark.parametrize("door", [http_api, rest_api, function_url, load_balancer])
def test_a_host_that_is_none_is_no_mistake_of_the_service(
    adapter: Adapter, door: Any, host: str
) -> None:
    event = door("POST", "/predict", BODY, {**JSON, "host": host})
    assert answer_to(adapter, event)[0] in (200, 400)


@pytest.mark.parametrize("door", [http_api, rest_api, function_url, load_balancer])
@pytest.mark.parametrize("place", ["path", "header", "body", "query"])
def test_half_a_character_is_refused(adapter: Adapter, door: Any, place: str) -> None:
    half = "\ud800"
    event = door("POST", "/predict", BODY, JSON)
    if place == "path":
        event |= {"rawPath": f"/{half}", "path": f"/{half}"}
        event["requestContext"].get("http", {})["path"] = f"/{half}"
    elif place == "header":
        for name in ("headers", "multiValueHeaders"):
            if event.get(name):
                event[name]["x-a"] = half if name == "headers" else [half]
    elif place == "body":
        event |= {"body": half, "isBase64Encoded": False}
    else:
        event |= {"rawQueryString": half, "queryStringParameters": {half: half}}
        event |= {"multiValueQueryStringParameters": {half: [half]}}
    assert 400 <= answer_to(adapter, event)[0] < 500


@pytest.mark.parametrize("door", [http_api, rest_api, function_url, load_balancer])
@pytest.mark.parametrize("accepted", ["identity", "gzip"])
def test_binary_tensors_go_through_every_door(adapter: Adapter, door: Door, accepted: str) -> None:
    predictor = bundled_predictor()
    images = np.stack([pixels(0), pixels(1)])
    tensor = triton.InferInput("images", list(images.shape), "UINT8").set_data_from_numpy(images)
    body, length = triton.InferenceServerClient.generate_request_body([tensor])
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(length),
        "accept-encoding": accepted,
    }
    path = f"/v2/models/{predictor.metadata.name}/infer"
    answer = adapter(door("POST", path, body, headers, encoded=True), SimpleNamespace())
    assert answer["statusCode"] == 200
    assert answer["isBase64Encoded"]
    said = {name: values[0] for name, values in answer.get("multiValueHeaders", {}).items()}
    said |= answer.get("headers", {})
    result = triton.InferenceServerClient.parse_response_body(
        base64.b64decode(answer["body"]),
        header_length=int(said["inference-header-content-length"]),
        content_encoding=said.get("content-encoding"),
    )
    np.testing.assert_array_equal(result.as_numpy("probabilities"), predictor(images))
