"""ml/registry/explanation.py: from a request to the version that answered it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.registry.explanation import version_in_line, version_of_request
from ml.registry.ledger import RegistryError

FLAT = {"level": "INFO", "request_id": "r-1", "model_version": "3fa8"}
NESTED = {"body": "served", "attributes": {"trace_id": "r-1", "model": {"model.version": "3fa8"}}}
OTLP = {
    "traceId": "r-1",
    "attributes": [
        {"key": "http.route", "value": {"stringValue": "/predict"}},
        {"key": "model.version", "value": {"stringValue": "3fa8"}},
    ],
}


@pytest.mark.parametrize("entry", [FLAT, NESTED, OTLP])
def test_a_line_of_any_shape_names_its_version(entry: object) -> None:
    assert version_in_line(json.dumps(entry)) == "3fa8"
    log = ["not JSON", json.dumps({"request_id": "r-0", "model_version": "0000"})]
    assert version_of_request([*log, f"2026-11-25 {json.dumps(entry)}"], "r-1") == "3fa8"


def test_the_line_that_names_a_version_counts() -> None:
    log = [json.dumps({"request_id": "r-1", "message": "received"}), json.dumps(FLAT)]
    assert version_of_request(log, "r-1") == "3fa8"


def test_a_request_without_a_version_is_told_apart_from_an_unknown_one() -> None:
    log = [json.dumps({"request_id": "r-1"}), "r-2 without JSON", '{"cut": "r-2']
    with pytest.raises(RegistryError, match="r-1"):
        version_of_request(log, "r-1")
    with pytest.raises(RegistryError, match="r-2"):
        version_of_request(log, "r-2")


@given(st.lists(st.text()), st.text(min_size=1))
def test_any_text_is_survived(lines: list[str], request: str) -> None:
    with pytest.raises(RegistryError):
        version_of_request(lines, request)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_survived(value: object) -> None:
    with pytest.raises(RegistryError, match="model_version"):
        version_in_line(json.dumps(value))
