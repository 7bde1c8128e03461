"""benchmarks/soak: what is wrong with an answer, and what grows, is noticed."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.soak.cases import Case
from benchmarks.soak.main import Sample, growth, judge
from benchmarks.soak.traffic import TrafficCounts, check

CLASSES = ("cat", "dog")
ONE = Case("one", b"", 200, images=[[0.25, 0.75]])
BATCH = Case("many", b"", 200, images=[[0.25, 0.75], 415], is_batch=True)
BAD = Case("bad", b"", 422, "invalid-field")


def prediction(dog: float = 0.75, label: str = "dog") -> dict[str, Any]:
    return {
        "label": label,
        "index": CLASSES.index(label),
        "top_k": [{"label": label}],
        "probabilities": {"cat": 1 - dog, "dog": dog},
    }


def kind_of(case: Case, status: int, answer: Any) -> str | None:
    mistake = check(case, status, json.dumps(answer).encode(), CLASSES, 1e-5)
    return mistake and mistake.kind


def test_right_answers_are_right() -> None:
    items = [{"index": 0, "prediction": prediction()}, {"index": 1, "error": {"status": 415}}]
    assert kind_of(ONE, 200, prediction()) is None
    assert kind_of(BATCH, 200, {"results": items}) is None
    assert kind_of(BAD, 422, {"type": "urn:kiln:problem:invalid-field"}) is None


@pytest.mark.parametrize(
    ("case", "status", "answer", "kind"),
    [
        (ONE, 503, {}, "server error"),
        (BAD, 500, {}, "server error"),
        (ONE, 422, {}, "wrong status"),
        (BAD, 200, prediction(), "wrong status"),
        (ONE, 200, prediction(dog=0.7501), "wrong answer"),
        (ONE, 200, prediction(dog=float("nan")), "wrong answer"),
        (ONE, 200, prediction(label="cat"), "wrong answer"),
        (ONE, 200, {}, "wrong answer"),
        (ONE, 200, [], "wrong answer"),
        (BAD, 422, {"type": "urn:kiln:problem:unreadable-image"}, "wrong answer"),
        (BATCH, 200, {"results": [{"index": 0, "prediction": prediction()}]}, "wrong answer"),
    ],
)
def test_wrong_answers_are_wrong(case: Case, status: int, answer: Any, kind: str) -> None:
    assert kind_of(case, status, answer) == kind


@given(
    st.floats(-50, 50),
    st.lists(st.floats(-0.5, 0.5), min_size=30, max_size=60),
    st.integers(0, 4),
)
def test_growth_finds_a_leak_below_noise_and_outliers(
    leak: float, noise: list[float], outliers: int
) -> None:
    places = [1000 * n for n in range(len(noise))]
    values = [
        leak * place / places[-1] + tremble for place, tremble in zip(places, noise, strict=True)
    ]
    values[5 : 5 + outliers] = [values[5] + 80] * outliers
    assert growth(places, values) == pytest.approx(leak, abs=2.5)


def samples(leak_mb: float) -> list[Sample]:
    return [
        Sample(n, 2000 * n, 150, {7: 90.0, 8: 90.0 + leak_mb * n / 40}, {7: 20, 8: 20})
        for n in range(40)
    ]


def failures(
    tally: TrafficCounts, leak_mb: float = 0.0, errors: int = 0, **after: Any
) -> list[str]:
    seen = samples(leak_mb)
    last = replace(seen[-1], **after)
    return [one.name for one in judge(tally, seen, seen[0], last, errors) if not one.holds]


def test_a_service_that_holds_passes() -> None:
    assert failures(TrafficCounts()) == []


@pytest.mark.parametrize("kind", ["server error", "wrong status", "wrong answer", "no answer"])
def test_one_mistake_is_too_many(kind: str) -> None:
    assert failures(TrafficCounts(mistakes={kind: 1})) == [kind]


def test_what_grows_is_found() -> None:
    assert failures(TrafficCounts(), leak_mb=9) == ["growth when warm"]
    assert failures(TrafficCounts(), open_files={7: 20, 8: 21}) == ["files left open"]
    assert failures(TrafficCounts(), resident_mb={7: 201.0, 8: 90.0}) == ["memory of a process"]
    assert failures(TrafficCounts(), resident_mb={7: 90.0, 9: 90.0}) == ["processes that died"]
    assert failures(TrafficCounts(), errors=1) == ["lines in the log"]
