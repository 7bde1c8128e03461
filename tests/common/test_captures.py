"""common/captures.py: batches of answers and labels, written once and read together."""

import gzip
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.captures import (
    Capture,
    CapturedAnswer,
    Captures,
    Label,
    batch_key,
    decode_rows,
    encode_rows,
    sampling_probability,
    usual_location,
    verdicts,
)
from common.objects import Damaged, FolderStore

NOON = 1_796_040_000.0  # 2026-11-30 12:00:00 UTC
VERSION = "ab" * 32


def capture(number: int, at: float = NOON, index: int = 0) -> Capture:
    return Capture(f"{number:032x}", index, at, VERSION, (0.7, 0.2, 0.1), 0.5, b"\x89PNG")


def label(number: int, text: str | None, labeller: str = "ada", at: float = NOON) -> Label:
    return Label(f"{number:032x}", 0, text, labeller, at)


@pytest.fixture
def captures(tmp_path: Path) -> Captures:
    return Captures(FolderStore(tmp_path))


def test_what_is_written_is_read_in_order_and_once(captures: Captures) -> None:
    rows = [capture(number, NOON + number) for number in range(5)]
    assert captures.write("b", 0, rows[2:], NOON + 4)
    assert captures.write("a", 0, rows[:3], NOON + 2)  # the third once more, as after a lost reply
    assert sorted(captures.rows(), key=lambda row: row.time) == rows
    assert not captures.write("a", 0, rows, NOON + 2)
    assert [answer.key for answer in captures.answers()] == [row.key for row in captures.rows()]


def test_a_span_of_time_is_read_from_the_hours_that_may_hold_it(captures: Captures) -> None:
    for hour in range(30):
        captures.write("w", hour, [capture(hour, NOON + 3600 * hour)], NOON + 3600 * hour + 90)
    found = captures.rows(NOON + 3600 * 3, NOON + 3600 * 27)
    assert [int(row.request_id, 16) for row in found] == list(range(3, 27))


@given(st.lists(st.builds(capture, st.integers(0, 9), st.floats(0, 2e9)), max_size=9))
def test_a_batch_is_its_rows(rows: list[Capture]) -> None:
    assert decode_rows(encode_rows(rows), Capture) == rows
    assert encode_rows(rows) == encode_rows(rows)


@pytest.mark.parametrize(
    "damage",
    [b"no gzip", gzip.compress(b"no JSON"), gzip.compress(b"{}")[:10] + b"\xff no deflate"],
    ids=["no-gzip", "no-json", "no-deflate"],
)
def test_a_damaged_batch_is_named(captures: Captures, damage: bytes) -> None:
    key = batch_key("w", 0, NOON)
    assert key == "captures/2026-11-30/12/w-000000.jsonl.gz"
    captures.store.create(key, damage)
    with pytest.raises(Damaged, match=key):
        list(captures.rows())


def test_answers_are_read_without_their_images(captures: Captures) -> None:
    rows = [capture(number) for number in range(5)]
    captures.write("w", 0, rows, NOON)
    answers = list(captures.answers(NOON, NOON + 1))
    assert [type(one) for one in answers] == [CapturedAnswer] * 5
    kept = ("request_id", "index", "time", "model_version", "probabilities", "probability")
    for answer, row in zip(answers, rows, strict=True):
        assert [getattr(answer, name) for name in kept] == [getattr(row, name) for name in kept]
        assert (answer.key, answer.answer) == (row.key, row.answer)


class ReadKeys(FolderStore):
    """Notes which objects are read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys: list[str] = []

    def read(self, key: str) -> bytes:
        self.keys.append(key)
        return super().read(key)


def test_labels_of_some_requests_are_read_without_those_of_others(tmp_path: Path) -> None:
    store = ReadKeys(tmp_path)
    captures = Captures(store)
    for number in range(20):
        captures.say(label(number, "cat"))
    together = captures.say_together([label(number, "dog", "eve") for number in range(20)])
    about = {f"{number:032x}" for number in (3, 7, 99)}
    found = captures.labels(about)
    assert sorted((one.request_id, one.labeller) for one in found) == sorted(
        (f"{number:032x}", who) for number in (3, 7) for who in ("ada", "eve")
    )
    assert sorted(store.keys) == sorted(
        [together, *(f"labels/{number:032x}/0/ada-000.json" for number in (3, 7))]
    )
    assert captures.verdicts(about).keys() == {label(number, "").key for number in (3, 7)}
    assert captures.labels(()) == []
    assert len(captures.labels()) == 40


def test_a_later_statement_replaces_an_earlier_one_of_the_same_labeller(captures: Captures) -> None:
    for at, text in enumerate(["cat", None, "dog"]):
        assert captures.say(label(1, text, at=NOON + at))
    captures.say(label(2, "cat"))
    captures.say(label(2, None, at=NOON + 1))
    found = captures.verdicts()
    assert found[label(1, "").key].label == "dog"
    assert label(2, "").key not in found
    assert len(captures.said(f"{1:032x}", 0)) == 3


def test_labellers_who_disagree_need_a_majority() -> None:
    said = [label(1, "cat", "ada"), label(1, "dog", "bo")]
    assert verdicts(said)[said[0].key].label is None
    assert verdicts([*said, label(1, "dog", "cy")])[said[0].key].label == "dog"


def test_the_same_import_twice_is_one(captures: Captures) -> None:
    labels = [label(number, "cat") for number in range(100)]
    assert captures.say_together(labels) == captures.say_together(labels)
    assert captures.labels() == labels


def test_a_forgotten_request_leaves_nothing_and_takes_nothing_else(captures: Captures) -> None:
    rows = [capture(1), capture(1, index=1), capture(2), capture(3)]
    captures.write("w", 0, rows, NOON)
    captures.say(label(1, "cat"))
    captures.say(label(2, "cat"))
    captures.say_together([label(1, "dog", "bo"), label(3, "dog", "bo")])
    assert captures.forget(rows[0].request_id) == 2
    assert list(captures.rows()) == rows[2:]
    assert {one.request_id for one in captures.labels()} == {row.request_id for row in rows[2:]}
    assert captures.forget(rows[0].request_id) == 0


@given(
    st.lists(st.floats(0.001, 1), min_size=2, max_size=20),
    st.floats(0.001, 1),
    st.floats(0.001, 1),
)
def test_the_chance_to_be_kept_lies_between_the_two_shares(
    weights: list[float], share: float, unsure: float
) -> None:
    probabilities = [weight / sum(weights) for weight in weights]
    chance = sampling_probability(probabilities, share, unsure)
    assert share <= chance <= max(share, unsure) + 1e-12
    random.Random(0).shuffle(probabilities)
    assert math.isclose(chance, sampling_probability(probabilities, share, unsure))


def test_an_unsure_answer_is_kept_more_often() -> None:
    assert sampling_probability((1.0, 0.0), 0.1, 0.5) == 0.1
    assert sampling_probability((0.5, 0.5), 0.1, 0.5) == 0.5


def test_commands_look_where_the_service_writes_or_in_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("KILN_CAPTURE", raising=False)
    assert usual_location() == str(tmp_path / ".kiln/captures")
    monkeypatch.setenv("KILN_CAPTURE", "s3://bucket/captures")
    assert usual_location() == "s3://bucket/captures"
