"""ml/artifact/evaluation.py against torchmetrics, and by hand."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from torchmetrics.functional import classification as reference

from ml.artifact.evaluation import (
    CALIBRATION_BINS,
    Evaluation,
    calibration_by_chance,
    evaluate,
    greatest_calibration_by_chance,
    proper_scores,
    worst_mistakes,
)

K = 10
CLASSES = tuple("abcdefghij")


def predictions(images: int = 2000, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities of a classifier that is right about half of the time, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, images)
    logits = rng.normal(size=(images, K)) + 2 * np.eye(K)[labels]
    exp = np.exp(logits)
    return (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_agree_with_torchmetrics(seed: int) -> None:
    p, y = predictions(seed=seed)
    result, pt, yt = evaluate(p, y, CLASSES), torch.from_numpy(p), torch.from_numpy(y)
    expected = {
        "loss": torch.nn.functional.nll_loss(pt.log(), yt),
        "accuracy": reference.multiclass_accuracy(pt, yt, K, average="micro"),
        "macro_f1": reference.multiclass_f1_score(pt, yt, K, average="macro"),
        "precision": reference.multiclass_precision(pt, yt, K, average="none"),
        "recall": reference.multiclass_recall(pt, yt, K, average="none"),
        "f1": reference.multiclass_f1_score(pt, yt, K, average="none"),
        "confusion": reference.multiclass_confusion_matrix(pt, yt, K),
        "support": torch.bincount(yt, minlength=K),
        "calibration_error": reference.multiclass_calibration_error(pt, yt, K, CALIBRATION_BINS),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(result, name), value.numpy(), atol=1e-6, err_msg=name)


def test_a_hand_sized_example_is_scored_right() -> None:
    result = evaluate([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [0, 1, 1], ("no", "yes"))
    assert result.confusion == ((1, 0), (1, 1))
    assert (result.precision, result.recall) == ((0.5, 1.0), (1.0, 0.5))
    assert result.loss == pytest.approx(-np.log([0.9, 0.4, 0.8]).mean())
    assert result.calibration_error == pytest.approx((0.1 + 0.6 + 0.2) / 3)


def test_a_class_that_is_never_seen_scores_zero_and_leaves_the_macro_f1_alone() -> None:
    result = evaluate([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], [0, 1], ("a", "b", "c"))
    assert (result.precision[2], result.recall[2], result.f1[2]) == (0, 0, 0)
    assert result.macro_f1 == 1


def test_a_probability_of_zero_for_the_label_costs_a_finite_loss() -> None:
    assert 80 < evaluate([[1.0, 0.0]], [1], ("a", "b")).loss < 90


def test_certain_and_right_is_perfectly_calibrated() -> None:
    result = evaluate(np.eye(K), np.arange(K), CLASSES)
    assert result.calibration_error == 0
    assert result.confidence_histogram == (0,) * (CALIBRATION_BINS - 1) + (K,)


def test_json_round_trips_to_an_equal_value() -> None:
    result = evaluate(*predictions(50), CLASSES)
    assert Evaluation.from_json(result.to_json()) == result
    assert json.loads(result.to_json())["accuracy"] == result.accuracy


@settings(max_examples=25)  # each draws a thousand resamples for the intervals
@given(st.integers(1, 60), st.integers(0, 999))
def test_counts_add_up_whatever_the_predictions(images: int, seed: int) -> None:
    result = evaluate(*predictions(images, seed), CLASSES)
    assert sum(map(sum, result.confusion)) == sum(result.confidence_histogram) == images
    assert result.accuracy == pytest.approx(np.trace(np.array(result.confusion)) / images)
    assert 0 <= result.calibration_error <= 1


@pytest.mark.parametrize(
    ("p", "y", "reason"),
    [
        ([[0.5, 0.5]], [0, 1], "got \\(1, 2\\) and \\(2,\\)"),
        ([[0.2, 0.3, 0.5]], [0], "got \\(1, 3\\)"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "N >= 1"),
        ([[3.0, -1.0]], [0], "are these logits"),
        ([[np.nan, 1.0]], [0], "sum to one"),
        ([[0.5, 0.5]], [2], "labels in 0..1, got 2..2"),
        ([[0.5, 0.5]], [0.5], "integer labels"),
    ],
)
def test_predictions_that_cannot_be_scored_are_refused(
    p: ArrayLike, y: ArrayLike, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        evaluate(p, y, ("a", "b"))


def test_worst_mistakes_are_the_most_confident_wrong_answers() -> None:
    p = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]]
    assert worst_mistakes(p, [1, 0, 1, 1], count=2).tolist() == [0, 3]
    assert worst_mistakes(p, [0, 1, 1, 0], count=2).tolist() == []


def test_proper_scores_are_those_of_the_definitions() -> None:
    p, y = predictions(500)
    loss, brier = proper_scores(p, y)
    assert loss.score == pytest.approx(
        float(torch.nn.functional.nll_loss(torch.from_numpy(p).log(), torch.from_numpy(y))),
        rel=1e-5,
    )
    assert loss.expected == pytest.approx(float(-(p * np.log(p)).sum(axis=1).mean()), rel=1e-5)
    assert brier.score == pytest.approx(
        float(((p - np.eye(K)[y]) ** 2).sum(axis=1).mean()), rel=1e-5
    )
    assert brier.expected == pytest.approx(float((1 - (p * p).sum(axis=1)).mean()), rel=1e-5)


def test_labels_drawn_from_the_answers_score_what_the_answers_expect() -> None:
    p, _ = predictions(1000)
    random = np.random.default_rng(1)
    draws = []
    for _ in range(200):
        labels = (p.cumsum(axis=1) < random.random((len(p), 1))).sum(axis=1).clip(max=K - 1)
        draws.append(proper_scores(p, labels))
    for scores in zip(*draws, strict=True):
        found = np.array([score.score for score in scores])
        assert found.mean() == pytest.approx(scores[0].expected, abs=4 * scores[0].error / 200**0.5)
        assert found.std() == pytest.approx(scores[0].error, rel=0.2)
        assert max(score.excess for score in scores) < 0.05


def test_a_mistake_of_full_confidence_exceeds_whatever_was_expected() -> None:
    loss, brier = proper_scores(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 1]))
    assert (loss.expected, brier.score, brier.expected) == (0.0, 0.5, 0.0)
    assert min(loss.excess, brier.excess) > 1000
    right, _ = proper_scores(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 0]))
    assert right.excess == 0.0


@pytest.mark.parametrize("images", [60, 201, 2000])
def test_what_chance_alone_adds_to_a_calibration_error_stays_below_its_bound(images: int) -> None:
    p, _ = predictions(images)
    rng, bound = np.random.default_rng(1), calibration_by_chance(p)
    errors = []
    for _ in range(300):  # labels as likely as the answers say
        labels = (rng.random((images, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=K - 1)
        scores = evaluate(p, labels, CLASSES)
        errors.append(scores.calibration_error)
        assert bound < greatest_calibration_by_chance(scores.accuracy, images) * 1.5
    assert np.mean([error > bound for error in errors]) < 0.02
    assert np.mean(errors) > bound / 3
