"""ml/labels/rounds.py: what is shown is a sample with known chances."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from common.captures import Capture, Captures
from common.model.artifact import DriftReference
from common.objects import FolderStore
from ml.artifact.drift_reference import drift_reference
from ml.labels.rounds import ROUNDS, draw, rounds
from tests.ml.labels.store import NOON, answer, coloured, filled

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
