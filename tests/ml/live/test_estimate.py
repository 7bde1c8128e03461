"""ml/live/estimate: the accuracy to expect without labels."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.captures import Capture, Verdict, sampling_probability
from ml.live.estimate import (
    AMBIGUOUS,
    CHOSEN,
    DISAGREED,
    FOREIGN,
    Belief,
    Estimate,
    Sample,
    estimate,
    labelled_accuracy,
    own_confidence,
    sample,
    used_twice,
    with_top,
)


def answers(rows: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities, and labels drawn from them."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(classes, 0.25), rows)
    return p, (p.cumsum(1) > random.random((rows, 1))).argmax(1)


def trusted(p: np.ndarray) -> Belief:
    return own_confidence(p)


def test_confusion_and_rates_are_sums_of_probabilities() -> None:
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    found = estimate(p, trusted(p))
    assert found.accuracy.value == pytest.approx((0.9 + 0.6 + 0.8) / 3)
    assert np.array(found.confusion) == pytest.approx(np.array([[1.5, 0.2], [0.5, 0.8]]) / 3)
    first = found.classes[0]
    assert first.precision.value == pytest.approx(0.75)
    assert first.recall.value == pytest.approx(1.5 / 1.7)
    assert first.answered == pytest.approx(2 / 3)
    assert first.expected == pytest.approx(1.7 / 3)


def test_an_answer_that_was_kept_with_a_chance_of_a_fifth_counts_five_times() -> None:
    p = np.array([[0.9, 0.1], [0.5, 0.5]])
    found = estimate(p, trusted(p), [0.2, 1.0])
    assert found.answers == pytest.approx(6)
    assert found.accuracy.value == pytest.approx((5 * 0.9 + 0.5) / 6)
    every = np.repeat(p, [5, 1], axis=0)
    same = np.array(estimate(every, trusted(every)).confusion)
    assert np.array(found.confusion) == pytest.approx(same)


def test_a_class_that_nobody_names_has_no_rate() -> None:
    p = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = estimate(p, trusted(p)).classes[2]
    assert np.isnan(found.precision.value)
    assert (found.recall.low, found.recall.high) == (0, 1)


def rates(found: Estimate) -> list[tuple[float, float]]:
    every = [
        found.accuracy,
        *(c.precision for c in found.classes),
        *(c.recall for c in found.classes),
    ]
    return [(rate.low, rate.high) for rate in every]


def truths(p: np.ndarray, labels: np.ndarray) -> list[float]:
    said = p.argmax(1)
    right = said == labels
    return [
        right.mean(),
        *(right[said == k].mean() for k in range(p.shape[1])),
        *(right[labels == k].mean() for k in range(p.shape[1])),
    ]


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_intervals_hold_the_truth_of_the_whole_traffic_19_times_in_20(share: float) -> None:
    """Accuracy, precision and recall of 4 classes, on 300 streams of 1,000 calibrated answers."""
    held = np.zeros(9)
    for seed in range(300):
        p, labels = answers(1000, seed)
        kept = share + (1 - share) * (1 - p.max(1))
        chosen = np.random.default_rng(1000 + seed).random(1000) < kept
        found = estimate(p[chosen], trusted(p[chosen]), kept[chosen])
        held += [
            low <= t <= high for (low, high), t in zip(rates(found), truths(p, labels), strict=True)
        ]
    assert (held / 300).min() > 0.9
    assert (held / 300).mean() == pytest.approx(0.95, abs=0.02)


def test_what_is_not_known_of_the_calibration_widens_the_interval() -> None:
    p, _ = answers(1000, 0)
    right = p.max(1)
    members = np.clip(right + np.array([[-0.02], [0.0], [0.02]]), 0, 1)

    def width(belief: Belief) -> float:
        found = estimate(p, belief).accuracy
        return found.high - found.low

    alone = width(trusted(p))
    assert width(Belief(right, members)) > alone + 0.02
    assert width(Belief(right, np.empty((0, 1000)), bias=0.03)) == pytest.approx(alone + 0.06)
    assert width(Belief(right, np.empty((0, 1000)), doubt=0.02)) > alone + 0.02


@given(st.integers(0, 1000), st.integers(2, 6))
def test_moved_tops_leave_distributions(seed: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(classes, 0.1), 5)
    right = random.random(5)
    moved = with_top(p, right)
    assert moved.sum(1) == pytest.approx(np.ones(5))
    assert moved[np.arange(5), p.argmax(1)] == pytest.approx(right)
    assert (moved >= 0).all()


@pytest.mark.parametrize("kept", [[0.0, 1.0], [1.0, 1.5]])
def test_chances_beyond_0_to_1_are_refused(kept: list[float]) -> None:
    p = np.array([[0.9, 0.1], [0.5, 0.5]])
    with pytest.raises(ValueError, match="chances"):
        estimate(p, trusted(p), kept)
    with pytest.raises(ValueError, match="beliefs"):
        estimate(p[:0], trusted(p))


CLASSES = ("cat", "dog")
VERSION, OTHER = "a" * 64, "b" * 64
Verdicts = dict[tuple[str, int], Verdict]


def capture(number: int, confidence: float = 0.9, kept: float = 1.0, **changed: object) -> Capture:
    """An answer "cat"."""
    values = {
        "request_id": f"{number:032x}",
        "index": 0,
        "time": float(number),
        "model_version": VERSION,
        "probabilities": (confidence, 1 - confidence),
        "probability": kept,
        "image": b"",
    }
    return Capture(**(values | changed))  # type: ignore[arg-type]


def sampled(rows: list[Capture], verdicts: Mapping[tuple[str, int], Verdict]) -> Sample:
    mine = [row for row in rows if row.model_version == VERSION]
    least_kept = min(row.probability for row in mine)
    return sample(mine, verdicts, CLASSES, used_twice(rows), least_kept)


def says(rows: list[Capture], label: str | None, chance: float | None = 1.0) -> Verdicts:
    return {row.key: Verdict(label, {}, chance) for row in rows}


def test_a_label_counts_by_one_over_both_chances() -> None:
    sure, unsure = capture(1, kept=0.1), capture(2, 0.6, kept=0.5)
    verdicts = says([sure], "cat", 0.5) | says([unsure], "dog", 1.0)
    found = sampled([sure, unsure], verdicts)
    assert found.weights == pytest.approx([20, 2])
    assert found.most == pytest.approx(20)
    accuracy = labelled_accuracy(found, 2)
    assert accuracy is not None
    assert accuracy.accuracy.value == pytest.approx(20 / 22)
    assert accuracy.recall[1].value == 0
    assert np.isnan(accuracy.precision[1].value)


def test_labels_that_name_no_answer_or_no_class_are_left_out_and_counted() -> None:
    rows = [capture(number) for number in range(5)]
    twice = [capture(7), capture(7, time=9.0, model_version=OTHER)]
    verdicts = (
        says(rows[:2], "cat") | says(rows[2:3], None) | says(rows[3:4], "bird") | says(twice, "cat")
    )
    found = sampled([*rows, *twice], verdicts)
    assert len(found.labels) == 2
    assert found.left_out == {AMBIGUOUS: 1, DISAGREED: 1, FOREIGN: 1}


def test_labels_that_somebody_chose_to_give_are_an_assumption_unless_there_are_others() -> None:
    rows = [capture(number) for number in range(4)]
    chosen = says(rows[:3], "cat", None)
    assert sampled(rows, chosen).chosen
    both = sampled(rows, chosen | says(rows[3:], "dog", 0.5))
    assert not both.chosen
    assert both.left_out == {CHOSEN: 3}
    assert both.labels.tolist() == [1]


def test_without_a_label_there_is_nothing_to_say() -> None:
    verdicts: Mapping[tuple[str, int], Verdict] = {}
    assert labelled_accuracy(sampled([capture(1)], verdicts), 2) is None


def test_the_interval_holds_the_accuracy_of_all_traffic_though_unsure_answers_come_first() -> None:
    """60 streams of 2,000 answers; the sample alone is about five points less accurate."""
    random = np.random.default_rng(0)
    held, naive = 0, []
    for _ in range(60):
        p = random.beta(6, 1, 2000) / 2 + 0.5
        right = random.random(2000) < p
        rows, verdicts = [], Verdicts()
        for number in range(2000):
            kept = sampling_probability((p[number], 1 - p[number]), 0.2, 1.0)
            if random.random() < kept:
                rows.append(capture(number, p[number], kept))
                if random.random() < (chance := 0.2 + 0.8 * (2 - 2 * p[number])):
                    verdicts |= says(rows[-1:], "cat" if right[number] else "dog", chance)
        found = labelled_accuracy(sampled(rows, verdicts), 2)
        assert found is not None
        held += found.accuracy.low <= p.mean() <= found.accuracy.high
        naive.append(np.mean([v.label == "cat" for v in verdicts.values()]) - p.mean())
    assert held >= 57
    assert np.mean(naive) < -0.03
