"""The service into a real collector and a real store: the series have the values of the traffic."""

import base64
from collections.abc import Iterator

import pytest

from tests.helpers.waiting import wait_until
from tests.serve.serving import base64_of
from tests.serve.telemetry.collector import Chain, collector
from tests.serve.telemetry.exporting import BODY, service
from tests.serve.telemetry.test_catalogue import CATALOGUE

OF_OTHERS = ("kiln.drift.", "kiln.capture.")  # who have tests of their own

PATIENCE_S = 60.0
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REQUESTS = "http_server_request_duration_seconds"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """After two predictions, a batch with a bad image, and a wrong request, in two exports."""
    with (
        collector(tmp_path_factory.mktemp("chain")) as chain,
        service(chain.endpoint, NO_PROXY="*") as (telemetry, client),
    ):
        followed = base64_of(base64.b64decode(BODY["image"]) + b"what a camera adds")
        batch = [BODY["image"]] * 4 + [followed, "?"]
        traced = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
        assert client.post("/predict", json=BODY, headers=traced).status_code == 200
        assert client.post("/predict", json={"image": "?"}).status_code == 422
        assert telemetry.flush(PATIENCE_S)
        assert client.post("/predict", json=BODY).status_code == 200
        assert client.post("/predict/batch", json={"images": batch}).is_success
        assert telemetry.flush(PATIENCE_S)
        wait_until(lambda: chain.value(f"sum({REQUESTS}_count)") == 4, "the second export")
        yield chain


def test_series_have_the_values_of_the_traffic(chain: Chain) -> None:
    predict = f'{REQUESTS}_count{{http_route="/predict",http_response_status_code="200"}}'
    assert chain.value(predict) == 2
    assert chain.value(f'{REQUESTS}_bucket{{http_route="/predict/batch",le="+Inf"}}') == 1
    assert chain.value("sum(kiln_predictions_total)") == 7
    assert chain.value("kiln_batch_size_sum") == 7
    assert chain.value("kiln_confidence_ratio_count or kiln_confidence_count") == 7
    assert chain.value("sum(kiln_errors_total)") == 1
    assert chain.value('kiln_images_refused_total{error_type="invalid-field"}') == 1
    assert chain.value('kiln_images_trailing_total{image_type="PNG"}') == 1
    assert chain.value("kiln_requests_shed_total") == 0
    assert chain.value("sum(kiln_telemetry_dropped_total)") == 0
    assert chain.value("count(kiln_stage_duration_seconds_count == 3)") == 4
    memory = chain.value("process_memory_usage_bytes")
    assert memory is not None
    assert 20e6 < memory < 4e9


def test_every_metric_of_the_service_is_in_the_store(chain: Chain) -> None:
    expected = {
        entry["name"].replace(".", "_")
        for entry in CATALOGUE
        if entry["owner"] == "service" and not entry["name"].startswith(OF_OTHERS)
    }
    names = chain.names()
    assert not {one for one in expected if not any(name.startswith(one) for name in names)}


def test_the_caller_s_trace_went_through_the_collector(chain: Chain) -> None:
    wait_until(lambda: len([s for s in chain.spans if s.trace_id == TRACE]) == 5, "five spans")
    spans = {span.name: span for span in chain.spans if span.trace_id == TRACE}
    server = spans.pop("POST /predict")
    assert (server.parent_id, server.attributes["http.route"]) == (SPAN, "/predict")
    assert set(spans) == {"decode", "queue", "infer", "encode"}
    assert {span.parent_id for span in spans.values()} == {server.span_id}


def test_log_records_went_through_with_their_trace(chain: Chain) -> None:
    wait_until(lambda: any(log.trace_id == TRACE for log in chain.logs), "the log record")
    (log,) = (one for one in chain.logs if one.trace_id == TRACE)
    assert (log.body, log.attributes["path"]) == ("request answered", "/predict")
