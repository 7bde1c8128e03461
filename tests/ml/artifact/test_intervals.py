"""Intervals that hold what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.intervals import wilson
from ml.artifact.evaluation import (
    accuracy_interval,
    evaluate,
    loss_interval,
    macro_f1_interval,
    recall_intervals,
)

CLASSES = ("a", "b", "c")


def _answers(images: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, images)
    logits = 2.0 * np.eye(3)[labels] + random.normal(0, noise, (images, 3))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def test_wilson_agrees_with_a_published_example() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_holds_the_share_and_stays_a_share(hits: int, trials: int) -> None:
    hits = min(hits, trials)
    low, high = wilson(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1
    assert low < high


def test_nothing_tried_is_nothing_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    p, y = _answers(200_000, seed=0, noise=1.5)
    truth = evaluate(p, y, CLASSES)
    covered = {"accuracy": 0, "f1": 0, "loss": 0}
    for seed in range(1, 101):
        p, y = _answers(400, seed, noise=1.5)
        sample = evaluate(p, y, CLASSES)
        for name, interval, value in (
            ("accuracy", accuracy_interval(sample), truth.accuracy),
            ("f1", macro_f1_interval(sample), truth.macro_f1),
            ("loss", loss_interval(p, y, CLASSES), truth.loss),
        ):
            covered[name] += interval.low <= value <= interval.high
    assert all(88 <= count <= 100 for count in covered.values()), covered


def test_every_class_has_an_interval_around_its_recall() -> None:
    p, y = _answers(300, seed=1, noise=2.0)
    evaluation = evaluate(p, y, CLASSES)
    for recall, interval in zip(evaluation.recall, recall_intervals(evaluation), strict=True):
        assert interval.low < recall < interval.high


def test_equal_input_gives_equal_intervals() -> None:
    evaluation = evaluate(*_answers(300, seed=1, noise=2.0), CLASSES)
    assert macro_f1_interval(evaluation) == macro_f1_interval(evaluation)


def test_a_class_that_never_occurs_does_not_spoil_the_f1() -> None:
    low, high = macro_f1_interval(evaluate(np.eye(3)[[0, 1, 0, 1]], [0, 1, 0, 1], CLASSES))
    assert (low, high) == pytest.approx((1, 1))


def test_the_interval_of_the_f1_is_that_of_drawing_every_cell() -> None:
    evaluation = evaluate(*_answers(300, seed=1, noise=2.0), CLASSES)
    counts = np.array(evaluation.confusion)
    draws = np.random.default_rng(0).multinomial(300, counts.reshape(-1) / 300, size=1000)
    draws = draws.reshape(-1, 3, 3)
    f1 = 2 * np.diagonal(draws, axis1=1, axis2=2) / (draws.sum(1) + draws.sum(2))
    expected = np.percentile(f1.mean(axis=1), (2.5, 97.5))
    assert macro_f1_interval(evaluation) == pytest.approx(tuple(expected))
