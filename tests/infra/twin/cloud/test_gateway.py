"""HTTP in front of a function, and events of payload format 2.0."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.twin.cloud.cloud import Cloud
from infra.twin.cloud.gateway import NoResponse, Request, event_of, response_of
from tests.infra.twin.cloud.functions import Functions, client, create, publish

REFLECT = """
def handler(event, head):
    return {"statusCode": 201, "headers": {"X-Kind": "echo", "content-type": "application/json"},
            "cookies": ["a=1", "b=2"], "body": json.dumps(event)}
serve(handler)
"""


def event(body: bytes = b"", kind: str | None = None, target: str = "/predict") -> dict[str, Any]:
    headers = [("Content-Type", kind)] if kind else []
    request = Request("POST", target, headers, body, "192.0.2.1")
    return event_of(request, "abc", "abc.example.org", "id", "123456789012")


def test_a_request_reaches_the_alias_and_its_answer_returns(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, REFLECT))
    answer = httpx.post(
        f"{cloud.url}/a%20b?x=1&x=2&y=", json={"n": 1}, headers={"Cookie": "c=3; d=4"}
    )
    assert (answer.status_code, answer.headers["x-kind"]) == (201, "echo")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    seen = answer.json()
    assert (seen["rawPath"], seen["rawQueryString"]) == ("/a b", "x=1&x=2&y=")
    assert seen["queryStringParameters"] == {"x": "1,2", "y": ""}
    assert seen["cookies"] == ["c=3", "d=4"]
    assert (json.loads(seen["body"]), seen["isBase64Encoded"]) == ({"n": 1}, False)
    assert seen["requestContext"]["http"]["method"] == "POST"


def test_the_function_that_the_api_integrates_is_called(cloud: Cloud, functions: Functions) -> None:
    create(cloud, functions.push(cloud, "serve(lambda e, h: 'first')"), "first")
    create(cloud, functions.push(cloud, "serve(lambda e, h: 'second')"), "second")
    gateway = client(cloud, "apigatewayv2")
    api = gateway.create_api(Name="kiln", ProtocolType="HTTP")["ApiId"]
    gateway.create_integration(
        ApiId=api,
        IntegrationType="AWS_PROXY",
        PayloadFormatVersion="2.0",
        IntegrationUri="arn:aws:lambda:eu-central-1:123456789012:function:second:live",
    )
    assert httpx.get(cloud.url).json() == "second"


def test_an_api_without_a_function_answers_404(cloud: Cloud) -> None:
    assert httpx.get(cloud.url).status_code == 404


def test_a_failing_function_is_a_500_and_a_throttled_one_a_503(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, "serve(lambda event, head: 1 / 0)"))
    answer = httpx.get(cloud.url)
    assert (answer.status_code, answer.json()) == (500, {"message": "Internal Server Error"})
    api = client(cloud, "lambda")
    api.put_function_concurrency(FunctionName="kiln", ReservedConcurrentExecutions=0)
    assert httpx.get(cloud.url).status_code == 503


def test_weights_hold_for_requests(cloud: Cloud, functions: Functions) -> None:
    create(cloud, functions.push(cloud, "serve(lambda event, head: 'one')"))
    two = publish(cloud, functions.push(cloud, "serve(lambda event, head: 'two')"))
    client(cloud, "lambda").update_alias(
        FunctionName="kiln", Name="live", RoutingConfig={"AdditionalVersionWeights": {two: 0.5}}
    )
    with httpx.Client() as http:
        answers = [http.get(cloud.url).json() for _ in range(100)]
    assert 20 <= answers.count("two") <= 80


@pytest.mark.parametrize(
    ("kind", "encoded"),
    [
        ("application/json", False),
        ("application/problem+json; charset=utf-8", False),
        ("text/plain", False),
        ("image/png", True),
        ("multipart/form-data; boundary=x", True),
        ("application/x-www-form-urlencoded", True),
        (None, True),
    ],
)
def test_what_is_no_text_is_encoded(kind: str | None, encoded: bool) -> None:
    assert event(b"body", kind)["isBase64Encoded"] == encoded


@given(body=st.binary(min_size=1), kind=st.sampled_from(["text/plain", "image/png", None]))
def test_a_body_survives_the_event(body: bytes, kind: str | None) -> None:
    made = event(body, kind)
    content = made["body"]
    assert (base64.b64decode(content) if made["isBase64Encoded"] else content.encode()) == body


@given(body=st.binary(), status=st.integers(200, 599))
def test_a_body_survives_the_response(body: bytes, status: int) -> None:
    payload = {
        "statusCode": status,
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }
    response = response_of(json.dumps(payload).encode())
    assert (response.status, response.body) == (status, body)


@pytest.mark.parametrize("payload", [b"{", b'{"statusCode": "x"}', b'{"statusCode": null}'])
def test_what_is_no_response_is_told(payload: bytes) -> None:
    with pytest.raises(NoResponse):
        response_of(payload)
