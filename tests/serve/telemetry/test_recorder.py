"""serve/telemetry/recorder.py, requests.py: counts in bulk equal counts one by one."""

import time
from bisect import bisect_left
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve.exchange import Exchange
from serve.telemetry import instruments as inst
from serve.telemetry.export import Sampler
from serve.telemetry.instruments import Instrument
from serve.telemetry.recorder import (
    Distribution,
    Exemplar,
    Point,
    Recorder,
    Request,
    RequestObserver,
)

CLASSES = ("cat", "dog", "ship")
ANSWERED = Request("POST", "/predict", 200, None)
SHED = Request("POST", "/predict", 503, "overloaded")

durations = st.one_of(
    st.floats(0, 20),
    st.sampled_from([*inst.REQUEST_DURATION.buckets, *inst.STAGE_DURATION.buckets]),
)


def collected(recorder: Recorder) -> dict[Instrument, list[Point]]:
    return dict(recorder.collect())


def distribution(point: Point) -> Distribution:
    assert isinstance(point.value, Distribution)
    return point.value


@given(st.lists(st.tuples(st.sampled_from([ANSWERED, SHED]), durations), max_size=200))
def test_every_duration_is_in_its_bucket(requests: list[tuple[Request, float]]) -> None:
    recorder = Recorder(CLASSES)
    for request, duration_s in requests:
        recorder.record(request, duration_s, 0, (0.0, 0.0, 0.0, 0.0), 0, None)
    found = {
        point.labels[inst.STATUS]: distribution(point)
        for point in collected(recorder).get(inst.REQUEST_DURATION, [])
    }
    assert set(found) == {request.status for request, _ in requests}
    for status, series in found.items():
        values = [duration for request, duration in requests if request.status == status]
        expected = Counter(bisect_left(inst.REQUEST_DURATION.buckets, value) for value in values)
        assert {i: n for i, n in enumerate(series.counts) if n} == expected
        assert series.count == len(values)
        assert np.isclose(series.total, sum(values))
        assert (series.smallest, series.largest) == (min(values), max(values))


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), max_size=150))
def test_classes_batches_and_stages_are_counted(batches: list[list[int]]) -> None:
    recorder = Recorder(CLASSES)
    for batch in batches:
        probabilities = np.eye(3, dtype=np.float32)[batch] * np.float32(0.85)
        stages = (0.001, 0.0, 0.01, 0.0001)
        recorder.record(ANSWERED, 0.02, 0, stages, len(batch), probabilities)
    found = collected(recorder)
    mix = {point.labels["class"]: point.value for point in found[inst.PREDICTIONS]}
    counts = Counter(CLASSES[index] for batch in batches for index in batch)
    assert mix == {name: counts[name] for name in CLASSES}
    if batches:
        assert distribution(found[inst.BATCH_SIZE][0]).total == sum(map(len, batches))
        confidence = distribution(found[inst.CONFIDENCE][0])
        assert confidence.counts[bisect_left(inst.CONFIDENCE.buckets, 0.85)] == counts.total()
        stages_found = {p.labels["stage"]: distribution(p) for p in found[inst.STAGE_DURATION]}
        assert list(stages_found) == list(inst.STAGES)
        assert np.isclose(stages_found["infer"].total, 0.01 * len(batches))


def test_errors_and_shed_requests_are_counted_by_kind() -> None:
    recorder = Recorder(CLASSES)
    for request in (SHED, SHED, Request("GET", "", 404, "not-found"), ANSWERED):
        recorder.record(request, 0.001, 0, (0.0, 0.0, 0.0, 0.0), 0, None)
    found = collected(recorder)
    errors = {point.labels[inst.ERROR]: point.value for point in found[inst.ERRORS]}
    assert errors == {"overloaded": 2, "not-found": 1}
    assert found[inst.SHED] == [Point({}, 2)]


def test_images_refused_in_batches_are_counted_by_kind() -> None:
    recorder = Recorder(CLASSES)
    for refused in (["not-an-image"] * 2, [], ["too-large", "not-an-image"]):
        recorder.record(ANSWERED, 0.001, 0, (0.0, 0.0, 0.0, 0.0), 0, None, refused)
    found = {p.labels[inst.ERROR]: p.value for p in collected(recorder)[inst.REFUSED]}
    assert found == {"not-an-image": 3, "too-large": 1}
    assert inst.ERRORS not in collected(recorder)  # the requests were answered


def test_images_that_bytes_follow_are_counted_by_type() -> None:
    recorder = Recorder(CLASSES)
    for types in (["JPEG", "PNG"], [], ["JPEG"]):
        recorder.record(ANSWERED, 0.001, 0, (0.0, 0.0, 0.0, 0.0), 0, None, trailing=types)
    found = {p.labels[inst.IMAGE_TYPE]: p.value for p in collected(recorder)[inst.TRAILING]}
    assert found == {"JPEG": 2, "PNG": 1}


def test_the_deepest_queue_is_told_once() -> None:
    recorder = Recorder(CLASSES)
    for waiting in (3, 41, 7):
        recorder.record(ANSWERED, 0.001, waiting, (0.0, 0.0, 0.0, 0.0), 0, None)
    assert collected(recorder)[inst.QUEUE_DEPTH] == [Point({}, 41)]
    assert collected(recorder)[inst.QUEUE_DEPTH] == [Point({}, 0)]


def test_an_exemplar_is_the_latest_of_its_bucket_and_is_told_once() -> None:
    recorder = Recorder(CLASSES)
    first, second = (Exemplar(0.02, 1, "a" * 32, c * 16) for c in "bc")
    other = Exemplar(3.0, 1, "d" * 32, "e" * 16)
    for one in (first, second, other):
        recorder.record(ANSWERED, one.value, 0, (0.0, 0.0, 0.0, 0.0), 0, None)
        recorder.mark(ANSWERED, one)
    series = distribution(collected(recorder)[inst.REQUEST_DURATION][0])
    assert set(series.exemplars) == {second, other}
    assert not distribution(collected(recorder)[inst.REQUEST_DURATION][0]).exemplars


def test_only_known_labels_are_collected() -> None:
    recorder = Recorder(CLASSES)
    probabilities = np.eye(3, dtype=np.float32)
    recorder.record(SHED, 0.1, 1, (0.1, 0.1, 0.1, 0.1), 3, probabilities)
    for what, points in collected(recorder).items():
        assert points
        assert all(set(point.labels) <= set(what.labels) for point in points)


def test_callers_cannot_make_new_series() -> None:
    recorder = Recorder(CLASSES)
    observer = RequestObserver(recorder, Sampler(0.0), None)
    for number in range(100):
        observer(_exchange(404, ""), f"BREW{number}", f"/prod/teapot/{number}")
    observer(_exchange(200, "/site/{file}"), "GET", "/prod/site/common.css")
    observer(_exchange(200, "/health"), "GET", "/prod/health")
    points = collected(recorder)[inst.REQUEST_DURATION]
    assert [(p.labels[inst.METHOD], p.labels.get(inst.ROUTE)) for p in points] == [
        ("_OTHER", None),
        ("GET", "/site/{file}"),
        ("GET", "/health"),
    ]


def _exchange(status: int, route: str) -> Exchange:
    exchange = Exchange(None)
    exchange.start, exchange.status, exchange.route = time.perf_counter(), status, route
    return exchange
