"""ml/live/labelled: accuracy by labels that were not given to all answers alike."""

from collections.abc import Mapping

import numpy as np
import pytest

from common.captures import Capture, Verdict, sampling_probability
from ml.live.labelled import (
    AMBIGUOUS,
    CHOSEN,
    DISAGREED,
    FOREIGN,
    Sample,
    labelled_accuracy,
    sample,
    used_twice,
)

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
