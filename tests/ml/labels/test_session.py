"""ml/labels/session.py: every label is stored at once, and a new session goes on from the store."""

from pathlib import Path

import pytest

from common.captures import Captures
from ml.data.cifar10 import CLASSES
from ml.labels.session import Refused, Session
from tests.ml.labels.store import answer, filled


def session(captures: Captures, labeller: str = "ada", **more: object) -> Session:
    return Session(captures, labeller, CLASSES, lambda _: None, **more)  # type: ignore[arg-type]


@pytest.fixture
def captures(tmp_path: Path) -> Captures:
    return filled(tmp_path, [answer(number) for number in range(12)])


def due(one: Session) -> tuple[str, int]:
    first = one.state()["queue"][0]
    return first["request_id"], first["index"]


def test_a_label_is_in_the_store_before_the_next_image_is_shown(captures: Captures) -> None:
    one = session(captures)
    key = due(one)
    one.say(key, "cat")
    [label] = captures.labels()
    assert (label.key, label.label, label.labeller, label.propensity) == (key, "cat", "ada", 1.0)
    assert due(one) != key
    assert one.state()["done"] == 1


def test_a_killed_session_goes_on_where_it_was(captures: Captures) -> None:
    one = session(captures)
    for _ in range(3):
        one.say(due(one), "cat")
    assert session(captures).state() == one.state()
    last = one.state()["last"]
    again = session(captures)
    again.undo()
    assert due(again) == (last["request_id"], last["index"])
    assert len(captures.verdicts()) == 2


def test_undo_takes_the_label_back_and_shows_the_image_again(captures: Captures) -> None:
    one = session(captures)
    one.undo()  # nothing to take back
    key = due(one)
    one.say(key, "cat")
    one.undo()
    assert captures.verdicts() == {}
    assert due(one) == key
    one.say(key, "dog")
    assert captures.verdicts()[key].label == "dog"


def test_a_skipped_image_comes_last(captures: Captures) -> None:
    one = session(captures)
    skipped = due(one)
    one.skip(skipped)
    seen = []
    while one.state()["queue"]:
        seen.append(due(one))
        one.say(seen[-1], "cat")
    assert len(seen) == 12
    assert seen[-1] == skipped
    assert not one.next_round()


def test_the_models_answer_is_hidden_until_the_label_is_said(captures: Captures) -> None:
    one = session(captures)
    assert "answer" not in one.state()["queue"][0]
    one.say(due(one), "cat")
    assert one.state()["last"]["answer"] in CLASSES
    assert "answer" in session(captures, shows_answers=True).state()["queue"][0]


def test_two_labellers_get_the_same_images_and_their_agreement(captures: Captures) -> None:
    one, other = session(captures), session(captures, "ben")
    assert [due(one), one.state()["total"]] == [due(other), other.state()["total"]]
    for turn in range(12):
        key = due(one)
        one.say(key, CLASSES[turn % 2])
        other.say(key, CLASSES[turn % 2 if turn else 1])
    [pair] = one.state()["agreement"]
    assert (pair["both"], pair["same"]) == (12, 11)
    assert pair["kappa"] == pytest.approx(5 / 6)


def test_what_is_no_label_of_the_round_is_refused(captures: Captures) -> None:
    one = session(captures)
    with pytest.raises(Refused):
        one.say(due(one), "zebra")
    with pytest.raises(Refused):
        one.say(("0" * 32, 7), "cat")
    assert captures.labels() == []


def test_what_was_deleted_meanwhile_is_not_shown(captures: Captures) -> None:
    one = session(captures)
    gone = due(one)
    captures.forget(gone[0])
    again = session(captures)
    assert again.state()["total"] == 11
    assert due(again) != gone
