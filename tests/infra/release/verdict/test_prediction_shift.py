"""infra/release/verdict/engine.py: stable's predictions in the candidate's place."""

import pytest
from msgspec.structs import replace

from common.model.drift import CLASSES
from common.model.signals import CONFIDENCE
from infra.release.verdict.engine import PredictionShift, prediction_shift, signal_counts
from infra.release.verdict.evidence import Arm, Window
from infra.release.verdict.measures import evidence_arrays
from infra.release.verdict.policy import Policy
from tests.infra.release.verdict.made import evidence

POLICY = Policy(fewest_images=10)


def classes(*counts: int) -> Arm:
    return Arm(sum(counts), classes=counts)


def seen(stable: Arm, candidate: Arm, policy: Policy = POLICY, look: int = 1) -> PredictionShift:
    arrays = evidence_arrays(evidence(Window(stable, candidate)))
    classes, confidence = (
        signal_counts(arrays, name).at((-1,)) for name in ("classes", "confidence")
    )
    return prediction_shift(classes, confidence, policy, look)


def test_windows_are_weighted_and_so_worth_fewer_images() -> None:
    found = signal_counts(
        evidence_arrays(
            evidence(
                Window(classes(30, 10), classes(4, 4)),
                Window(classes(0, 20), classes(0, 10)),
                Window(Arm(), classes(7, 0)),  # nothing to compare with
            )
        ),
        "classes",
    )
    assert found.live.tolist() == [[4, 4], [4, 14], [4, 14]]
    assert found.shares[0].tolist() == [0.75, 0.25]
    assert found.shares[2].tolist() == pytest.approx([6 / 18, 12 / 18])
    # (sum w)^2 / sum(w^2 / n): 8 answers for 40 of stable, then 10 for 20.
    assert found.size.tolist() == pytest.approx([40, 18**2 / 6.6, 18**2 / 6.6])


def test_one_answer_of_stable_is_worth_one_image() -> None:
    found = signal_counts(
        evidence_arrays(evidence(Window(classes(1, 0), classes(3, 1)))), "classes"
    )
    assert found.shares.tolist() == [[1, 0]]
    assert found.size.tolist() == [1]


@pytest.mark.parametrize(
    ("stable", "candidate", "counts"),
    [(10, 10, True), (9, 10, False), (10, 9, False), (0, 90, False)],
)
def test_answers_count_once_both_gave_enough(stable: int, candidate: int, counts: bool) -> None:
    found = seen(classes(stable, 0), classes(candidate, 0))
    assert found.images == min(stable, candidate if stable else 0)
    assert (found.class_mix is not None) is counts
    assert found.confidence is None


@pytest.mark.parametrize(
    ("stable", "candidate", "counts"), [(10, 10, True), (9, 10, False), (10, 9, False)]
)
def test_confidence_counts_once_both_told_it_often_enough(
    stable: int, candidate: int, counts: bool
) -> None:
    found = seen(
        replace(classes(50, 50), confidence=(stable, 0)),
        replace(classes(50, 50), confidence=(candidate, 0)),
    )
    assert found.class_mix
    assert (found.confidence is not None) is counts


def test_distances_are_those_of_live_drift() -> None:
    found = seen(
        replace(classes(500, 500), confidence=(400, 300, 200, 100)),
        replace(classes(100, 300), confidence=(40, 30, 130, 200)),
    )
    assert found.class_mix
    assert found.confidence
    assert (found.class_mix.signal, found.class_mix.kind) == (CLASSES, "psi")
    assert (found.confidence.signal, found.confidence.kind) == (CONFIDENCE, "ks")
    # 0.25 ln(0.5 / 0.25) + 0.25 ln(0.75 / 0.5), but for smoothing
    assert found.class_mix.value == pytest.approx(0.2747, abs=4e-3)
    assert found.confidence.value == pytest.approx(0.7 - 70 / 400, abs=2e-3)
    assert found.confidence.drifted


def test_limits_and_rates_are_the_policys() -> None:
    policy = Policy(harmful_class_mix_psi=0.3, harmful_confidence_ks=0.4, false_alarm_rate=0.5)
    arm = replace(classes(4000, 4000), confidence=(4000, 4000))
    found = seen(arm, arm, policy)
    assert found.class_mix
    assert found.confidence
    assert (found.class_mix.threshold, found.confidence.threshold) == (0.3, 0.4)
    few = replace(classes(20, 20), confidence=(20, 20))
    thresholds = [
        found.class_mix.threshold
        for look in (1, 2, 30)
        if (found := seen(few, few, POLICY, look)).class_mix
    ]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[-1]
