"""ml/labels/session.py: every label is stored at once, and a new session goes on from the store."""

import math
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from common.captures import Capture, Captures, Verdict
from common.model.artifact import DriftReference
from common.objects import FolderStore
from ml.artifact.artifact import drift_reference
from ml.data.cifar10 import CLASSES
from ml.labels.session import ROUNDS, Refused, Session, agreements, draw, kappa, rounds
from tests.ml.labels.store import NOON, answer, coloured, filled


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


UNKNOWN = lambda _: None  # noqa: E731 # no reference is at hand


def many(count: int, start: int = 0, edge: int = 4) -> list[Capture]:
    random = np.random.default_rng(start)
    sure = random.uniform(0.12, 0.99, count)
    return [
        answer(start + n, sure=float(sure[n]), pixels=coloured(n % 10, n, edge))
        for n in range(count)
    ]


def test_unsure_answers_are_shown_more_often(tmp_path: Path) -> None:
    rows = many(2000)
    found = draw(filled(tmp_path, rows), UNKNOWN, size=200, now=NOON + 9e4)
    assert found is not None
    assert 150 < len(found.shown) < 250
    of = {row.key: max(row.probabilities) for row in rows}
    assert np.mean([of[one.key] for one in found.shown]) < np.mean([*of.values()]) - 0.05


def test_weighting_by_the_chances_counts_all_answers(tmp_path: Path) -> None:
    rows = many(3000)
    captures = filled(tmp_path, rows)
    value = {row.key: float(max(row.probabilities) > 0.6) for row in rows}  # tells how sure it is
    truth, plain, weighted = float(np.mean([*value.values()])), [], []
    for _ in range(3):  # rounds one after the other: each is a sample of all answers
        one = draw(captures, UNKNOWN, size=500, now=NOON + 9e4)
        assert one is not None
        weights = np.array([1 / shown.propensity for shown in one.shown])
        values = np.array([value[shown.key] for shown in one.shown])
        plain.append(values.mean())
        weighted.append((weights * values).sum() / weights.sum())
        assert weights.sum() == pytest.approx(3000, rel=0.12)
    assert np.mean(weighted) == pytest.approx(truth, abs=0.025)
    assert np.mean(plain) < truth - 0.04


def test_an_image_that_nobody_could_see_is_in_no_round(tmp_path: Path) -> None:
    good, bad = many(30), msgspec.structs.replace(many(1, start=30)[0], image=b"no PNG")
    found = draw(filled(tmp_path, [*good, bad]), UNKNOWN, size=40, now=NOON + 9e4)
    assert found is not None
    assert found.shown
    assert bad.key not in {shown.key for shown in found.shown}


def test_rounds_share_no_answer_and_end_when_all_were_shown(tmp_path: Path) -> None:
    captures = filled(tmp_path, many(100))
    seen: list[tuple[str, int]] = []
    while one := draw(captures, UNKNOWN, size=40, now=NOON + 9e4):
        assert all(0 < shown.propensity <= 1 for shown in one.shown)
        seen += [shown.key for shown in one.shown]
    assert len(seen) == len(set(seen)) == 100
    assert [one.number for one in rounds(captures)] == list(range(len(rounds(captures))))


def test_answers_of_later_are_for_later_rounds(tmp_path: Path) -> None:
    captures = filled(tmp_path, many(300))
    first = draw(captures, UNKNOWN, size=50, now=NOON + 300)
    captures.write("w", 1, many(300, 300), NOON + 600)
    second = draw(captures, UNKNOWN, size=50, now=NOON + 700)
    assert first is not None
    assert second is not None
    fresh = [one for one in second.shown if int(one.request_id, 16) >= 300]
    assert 10 < len(fresh) < len(second.shown)


def test_images_that_look_unlike_the_test_images_are_shown_more_often(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def grey(level: int, count: int) -> np.ndarray:
        return random.integers(level - 30, level + 30, (count, 8, 8, 3), dtype=np.uint8)

    seen = grey(120, 400)
    reference: DriftReference = drift_reference(seen, np.full((400, 10), 0.1, np.float32))
    rows = [answer(n, sure=0.9, pixels=image) for n, image in enumerate(grey(120, 1000))]
    rows += [answer(1000 + n, sure=0.9, pixels=image) for n, image in enumerate(grey(200, 100))]
    found = draw(filled(tmp_path, rows), lambda _: reference, size=150, now=NOON + 9e4)
    assert found is not None
    dark = sum(int(one.request_id, 16) >= 1000 for one in found.shown)
    assert dark / len(found.shown) > 2 * 100 / 1100


class Slower(FolderStore):
    """Another labeller stores a round between this one's look and its own writing."""

    def create(self, key: str, data: bytes) -> bool:
        if not self.entries(ROUNDS):
            draw(Captures(FolderStore(self.root)), UNKNOWN, size=30, now=NOON + 300)
        return super().create(key, data)


def test_two_labellers_who_draw_at_once_share_a_round(tmp_path: Path) -> None:
    filled(tmp_path, many(200))
    late = Captures(Slower(tmp_path))
    found = draw(late, UNKNOWN, size=30, now=NOON + 301)
    assert rounds(late) == [found]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_kappa_is_scikit_learns(said: list[tuple[str, str]]) -> None:
    found = kappa(Counter(said))
    if len({name for pair in said for name in pair}) == 1:
        assert found is None
    else:
        one, other = zip(*said, strict=True)
        assert math.isclose(found or 0.0, cohen_kappa_score(one, other), abs_tol=1e-12)


def test_each_two_labellers_are_compared_on_what_both_have_seen() -> None:
    verdicts = [
        Verdict("cat", {"ada": "cat", "ben": "cat", "cy": "dog"}),
        Verdict(None, {"ada": "cat", "ben": "dog"}),
        Verdict("dog", {"ada": "dog"}),
    ]
    found = {(one.one, one.other): (one.both, one.same) for one in agreements(verdicts)}
    assert found == {("ada", "ben"): (2, 1), ("ada", "cy"): (1, 0), ("ben", "cy"): (1, 0)}
    assert agreements(verdicts)[0].kappa == pytest.approx(0.0)
