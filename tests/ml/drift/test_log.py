"""ml/drift/observed.py: answers of the service, one a line, and lines that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.drift.observed import InputError, read_log

CLASSES, VERSION = ("round", "flat", "sharp"), "a" * 64


def written(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.mark.parametrize(
    "line",
    [
        {"label": "flat", "index": 1, "probability": 0.75, "model_version": VERSION},
        {"index": 1, "probability": 0.75},
        {"probabilities": [0.125, 0.75, 0.125]},
        {"probabilities": {"round": 0.125, "sharp": 0.125, "flat": 0.75}},
        {"results": [{"index": 0, "prediction": {"label": "flat", "probability": 0.75}}]},
    ],
)
def test_every_form_of_an_answer_is_read(log: Path, line: Any) -> None:
    seen = read_log(written(log, line), CLASSES, VERSION)
    assert seen.predictions.tolist() == [1]
    assert seen.signals["confidence"].tolist() == [0.75]
    assert not seen.problems


def test_a_batch_counts_each_image_and_leaves_out_those_that_failed(log: Path) -> None:
    item = {"prediction": {"label": "round", "probability": 0.9}}
    batch = {"results": [item, {"error": {"status": 415}}, item], "model_version": VERSION}
    assert len(read_log(written(log, batch), CLASSES, VERSION).predictions) == 2


def test_signals_are_read_where_they_were_measured(log: Path) -> None:
    measured = {"index": 0, "probability": 0.5, "signals": {"sharpness": 0.7, "loudness": 3}}
    seen = read_log(written(log, measured, {"index": 0, "probability": 0.5}), CLASSES, VERSION)
    assert seen.signals["sharpness"].tolist() == [0.7]
    assert set(seen.signals) == {"confidence", "sharpness"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "Expecting"),
        ([1], "expected an object, got list"),
        ({"label": "odd", "probability": 0.5}, "none of the model's classes"),
        ({"index": 3, "probability": 0.5}, "index 3, expected 0..2"),
        ({"index": True, "probability": 0.5}, "index True"),
        ({"probability": 0.5}, "index None"),
        ({"index": 1}, "probability None"),
        ({"index": 1, "probability": 1.5}, "probability 1.5"),
        ({"probabilities": [0.5, 0.5]}, "2 probabilities, expected 3"),
        ({"probabilities": {"round": 1}}, "'flat'"),
        ({"index": 1, "probability": 0.5, "model_version": "b" * 64}, "by model bbbb"),
        ({"results": 3}, "not iterable"),
        ({"results": ["x", {"prediction": 1}]}, "'int' object"),
    ],
)
def test_a_line_without_an_answer_is_left_out_with_the_reason(
    log: Path, line: Any, reason: str
) -> None:
    seen = read_log(written(log, {"index": 0, "probability": 0.5}, "", line), CLASSES, VERSION)
    assert len(seen.predictions) == 1
    assert len(seen.problems) == 1
    assert seen.problems[0].startswith("line 3: ")
    assert reason in seen.problems[0]


def test_a_log_without_any_answer_is_refused(log: Path) -> None:
    with pytest.raises(InputError, match="line 1: "):
        read_log(written(log, "hello"), CLASSES, VERSION)
    with pytest.raises(InputError, match="cannot be read"):
        read_log(log.with_name("missing"), CLASSES, VERSION)
    log.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_log(log, CLASSES, VERSION)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["index", "label", "probability", "probabilities", "results", "signals"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(json_values)
def test_no_line_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    log = written(
        tmp_path_factory.getbasetemp() / "any.jsonl", {"index": 0, "probability": 1}, value
    )
    seen = read_log(log, CLASSES, VERSION)
    assert len(seen.predictions) + len(seen.problems) >= 1
