"""infra/release/verdict/measures.py and its arrays, against numbers worked out by hand."""

from dataclasses import fields
from math import inf, log
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from common import betting
from infra.release.verdict import measures
from infra.release.verdict.engine import signal_counts
from infra.release.verdict.evidence import Arm, Replay, Reports, Window
from infra.release.verdict.measures import ArmArrays, EvidenceArrays, evidence_arrays, if_stable
from infra.release.verdict.policy import DEFAULT_POLICY, Policy
from tests.infra.release.verdict.made import EDGES, evidence

SHARE, LOSS = measures.SHARE, measures.LOSS
NOBODY = Arm()


def of(*windows: Window) -> EvidenceArrays:
    return evidence_arrays(evidence(*windows))


def latencies(*counts: int) -> Arm:
    return Arm(sum(counts), latency=counts)


def full(fast: int, usual: int, slow: int, classes: tuple[int, int]) -> Arm:
    """All that an arm can tell; one request in ten failed."""
    counts = (0, fast, usual, slow, 1, 2)
    answered = sum(counts)
    confidence = (slow, usual, fast)
    return Arm(answered + answered // 10, answered // 10, counts, classes, confidence)


# --- Counts --------------------------------------------------------------------------------------


def test_stable_is_put_in_the_candidates_place_window_by_window() -> None:
    windows = [
        Window(latencies(30, 10, 0, 0, 0, 0), latencies(4, 4, 0, 0, 0, 0)),
        Window(latencies(0, 0, 0, 0, 0, 50), latencies(0, 0, 0, 0, 10, 0)),
        Window(NOBODY, latencies(0, 0, 7, 0, 0, 0)),
    ]
    candidate, expected = if_stable(of(*windows), "latency")
    assert expected.tolist() == [[6, 2, 0, 0, 0, 0], [6, 2, 0, 0, 0, 10], [6, 2, 0, 0, 0, 10]]
    assert candidate.tolist() == [[4, 4, 0, 0, 0, 0], [4, 4, 0, 0, 10, 0], [4, 4, 0, 0, 10, 0]]


def test_a_single_answer_of_stable_stands_for_all_of_the_candidates() -> None:
    _, expected = if_stable(
        of(Window(latencies(0, 1, 0, 0, 0, 0), latencies(8, 0, 0, 0, 0, 0))), "latency"
    )
    assert expected.tolist() == [[0, 8, 0, 0, 0, 0]]


def test_golden_images_are_counted_by_what_they_say() -> None:
    arrays = of(Window(NOBODY, NOBODY, Replay(1, 2, 3, 4, 5)), Window(NOBODY, NOBODY, Replay(10)))
    assert measures.lost(arrays).tolist() == [[3, 10, 2], [3, 20, 2]]
    assert measures.apart(arrays).tolist() == [[5, 10], [15, 10]]


def test_what_happened_is_summed_over_windows() -> None:
    assert measures.happened(np.array([1.0, 2]), np.array([10.0, 5])).tolist() == [[9, 1], [12, 3]]


# --- Quantiles of a histogram --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ((10, 0, 0, 0), 0.5, 0.5),
        ((0, 10, 0, 10), 0.5, 2),
        ((0, 10, 0, 10), 0.25, 1.5),
        ((0, 10, 0, 10), 0.75, 4),  # beyond the last edge
        ((3, 0, 1, 0), 0.75, 1),
        ((3, 0, 1, 0), 0.99, 2 + 0.96 * 2),
        ((0, 0, 0, 0), 0.5, 0),
    ],
)
def test_a_quantile_lies_straight_within_its_bucket(
    counts: tuple[int, ...], q: float, expected: float
) -> None:
    edges = np.array([1.0, 2, 4])
    assert measures.quantile(np.array(counts, float), edges, q) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratio", "edge"),
    [
        (1.3, 1),
        (2, 1),
        (2.2, 2),
        (3, 2),
        (5, 3),
        (1000, 4),
    ],  # of 7.5 ms, in edges of 5, 10, 25, 50, 100
)
def test_the_limit_is_the_edge_nearest_to_the_harmful_multiple(ratio: float, edge: int) -> None:
    policy = Policy(harmful_latency_ratio=ratio, tolerated_latency_ratio=1.1)
    arrays = of(Window(latencies(0, 100, 0, 0, 0, 0), latencies(1, 2, 3, 4, 5, 6)))
    assert measures.latency_limit(arrays, policy, 0.5).tolist() == [edge]
    above = sum((1, 2, 3, 4, 5, 6)[edge + 1 :])
    assert measures.latency_counts(arrays, policy, 0.5).tolist() == [[21 - above, above]]


def test_the_limit_is_never_inside_stables_own_bucket() -> None:
    policy = Policy(harmful_latency_ratio=1.2, tolerated_latency_ratio=1.1)
    arrays = of(Window(latencies(0, 0, 0, 0, 1, 99), latencies(0, 0, 0, 0, 0, 9)))
    assert measures.latency_limit(arrays, policy, 0.5).tolist() == [len(EDGES)]
    arrays = of(Window(latencies(0, 99, 1, 0, 0, 0), latencies(0, 0, 9, 0, 0, 0)))
    assert measures.latency_limit(arrays, policy, 0.01).tolist() == [1]  # 5.05 ms, near 5


def test_without_latencies_of_stable_there_is_no_limit() -> None:
    arrays = of(Window(NOBODY, latencies(0, 9, 0, 0, 0, 0)))
    assert measures.latency_limit(arrays, DEFAULT_POLICY, 0.5).tolist() == [len(EDGES)]
    assert measures.latency_counts(arrays, DEFAULT_POLICY, 0.5).tolist() == [[0, 0]]


# --- Sizes, odds and what follows ----------------------------------------------------------------


def test_errors_are_held_against_stable_at_the_same_times() -> None:
    arrays = of(
        Window(Arm(100, 10), Arm(50, 10)),
        Window(Arm(), Arm(30, 30)),  # stable was not there to compare with
        Window(Arm(100, 50), Arm(50, 20)),
    )
    found = measures.errors(arrays, DEFAULT_POLICY)
    assert found.size == pytest.approx([0.1, 0.1, 0])
    odds = betting.two_arm_log_odds([10, 0, 50], [100, 0, 100], [10, 30, 20], [50, 30, 50])
    assert found.odds_of_harm == pytest.approx(odds)
    seen = np.array([[40, 10], [40, 40], [70, 60]])
    limit = measures.error_limit(arrays.stable, DEFAULT_POLICY)
    assert found.odds_of_safety == pytest.approx(betting.log_odds(seen, SHARE, limit, "below"))


def test_one_request_of_stable_that_failed_says_that_all_would() -> None:
    arrays = of(Window(Arm(1, 1), Arm(10, 9)), Window(Arm(1, 0), Arm(1, 1)))
    assert measures.errors(arrays, DEFAULT_POLICY).size == pytest.approx([-0.1, 0])
    arrays = of(Window(Arm(1, 0), Arm(1, 1)))
    assert measures.errors(arrays, DEFAULT_POLICY).size == [1]


def test_the_candidate_may_fail_as_stable_surely_does_and_a_little_more() -> None:
    arrays = of(Window(Arm(1000, 100), Arm()), Window(Arm(1000, 1000), Arm()))
    policy = Policy(harmful_error_excess=0.2)
    least = betting.bound([[900, 100], [900, 1100]], SHARE, 2000, "below")
    limits = least[0] + 0.2, 2 * least[1]  # the excess, or twice as many where that is more
    assert measures.error_limit(arrays.stable, policy) == pytest.approx(limits)
    assert measures.error_limit(arrays.stable, Policy(harmful_error_excess=0.9))[1] == 1


def test_the_size_of_a_delay_is_the_worse_of_two_ratios() -> None:
    stable = latencies(0, 100, 0, 0, 0, 0)  # p50 7.5 ms, p99 9.95
    tail = Window(stable, latencies(0, 90, 0, 0, 10, 0))  # p99 95 ms
    middle = Window(stable, latencies(0, 0, 100, 0, 0, 0))  # p50 17.5 ms, p99 24.85
    found = measures.latency(of(tail), DEFAULT_POLICY)
    assert found.size == pytest.approx([95 / 9.95])
    assert measures.latency(of(middle), DEFAULT_POLICY).size == pytest.approx([24.85 / 9.95])
    assert measures.latency(of(Window(stable, NOBODY)), DEFAULT_POLICY).size.tolist() == [0]


def test_a_delay_is_sought_at_every_edge_and_ruled_out_at_two() -> None:
    window = Window(latencies(5, 90, 5, 0, 0, 0), latencies(0, 9, 4, 3, 2, 1))
    found = measures.latency(of(window), DEFAULT_POLICY)
    slower = zip((95, 5, 0, 0, 0), (19, 10, 6, 3, 1), strict=True)
    each = [np.exp(betting.two_arm_log_odds([y], [100], [x], [19])) for y, x in slower]
    assert found.odds_of_harm == pytest.approx(np.log(np.mean(each)))
    # The p50 of stable is 7.5 ms and its p99 22 ms: twice that is nearest to 10 and to 50 ms.
    middle = betting.log_odds([9, 10], SHARE, 0.5, "below")
    tail = betting.log_odds([16, 3], SHARE, 0.01, "below")
    assert found.odds_of_safety == pytest.approx([min(middle, tail)])


def test_accuracy_is_lost_on_balance() -> None:
    arrays = of(Window(NOBODY, NOBODY, Replay(80, 12, 8, 0, 0)), Window(NOBODY, NOBODY))
    policy = Policy(tolerated_accuracy_loss=0.005)
    found = measures.accuracy(arrays, policy)
    assert found.size == pytest.approx([0.04, 0.04])
    counts = [[8, 80, 12]] * 2
    assert found.odds_of_harm == pytest.approx(betting.log_odds(counts, LOSS, 0.005, "above"))
    assert found.odds_of_safety == pytest.approx(betting.log_odds(counts, LOSS, 0.01, "below"))


def test_disagreement_is_a_share_of_golden_images() -> None:
    found = measures.disagreement(
        of(Window(NOBODY, NOBODY, Replay(60, 5, 5, 20, 10))), DEFAULT_POLICY
    )
    assert found.size == pytest.approx([0.2])
    assert found.odds_of_harm == pytest.approx(betting.log_odds([[80, 20]], SHARE, 0.15, "above"))
    assert found.odds_of_safety == pytest.approx(betting.log_odds([[80, 20]], SHARE, 0.15, "below"))


@pytest.mark.parametrize("name", ["errors", "latency", "accuracy", "disagreement"])
def test_odds_that_are_just_reached_count(name: str) -> None:
    """Harmful and safe follow from the odds and the limits that a policy names."""
    bad = Window(
        latencies(0, 300, 0, 0, 0, 0),
        replace(latencies(0, 250, 0, 0, 30, 0), requests=300, errors=20),
        Replay(40, 35, 5, 0, 20),
    )
    good = Window(
        replace(latencies(0, 300, 0, 0, 0, 0), requests=310, errors=10),
        latencies(0, 300, 0, 0, 0, 0),
        Replay(700),
    )
    measure = getattr(measures, name)
    share = {"errors": 0.15, "latency": 0.1, "accuracy": 0.4, "disagreement": 0.1}[name]
    odds = float(np.exp(measure(of(bad), DEFAULT_POLICY).odds_of_harm[-1]))
    assert odds > 1 / 0.01 / share
    for scale, harmful in ((0.999, False), (1.001, True)):
        rate = scale / odds / share
        assert measure(of(bad), Policy(false_alarm_rate=rate)).harmful.tolist() == [harmful]
    twice = 2 if name == "errors" else 1
    last = -inf
    for missed in np.geomspace(0.5, 0.005, 40).tolist():
        policy = Policy(missed_harm_rate=missed)
        found = measure(of(good), policy)
        expected = found.odds_of_safety[-1] >= log(twice / missed)
        assert found.safe.tolist() == [expected]
        last = max(last, found.odds_of_safety[-1])
    assert last > log(2)
    assert not measure(of(bad), Policy(missed_harm_rate=0.5, false_alarm_rate=0.5)).safe.any()


@pytest.mark.parametrize(
    ("name", "key"),
    [("errors", "tolerated_error_excess"), ("latency", "tolerated_latency_ratio")],
)
def test_what_is_tolerated_is_no_harm_up_to_its_limit(name: str, key: str) -> None:
    window = Window(
        latencies(0, 5000, 0, 0, 0, 0),
        replace(latencies(0, 4000, 900, 0, 0, 0), requests=5000, errors=100),
    )
    measure = getattr(measures, name)
    size = float(measure(of(window), DEFAULT_POLICY).size[-1])
    wide = {"harmful_error_excess": 0.9, "harmful_latency_ratio": 90.0}
    for limit, harmful in ((size, True), (size + 1e-9, False)):
        policy = Policy(**wide, **{key: limit})  # type: ignore[arg-type]
        assert measure(of(window), policy).harmful.tolist() == [harmful]


def test_a_status_that_the_candidate_gives_more_often_is_its_own() -> None:
    """Callers' mistakes meet both; a version that no longer reads JPEG refuses JPEG."""
    usual = Arm(1000, refusals={"400": 20, "422": 10})
    fewer_of_one = Arm(1000, refusals={"400": 0, "415": 40})  # as many in all, of another kind
    found = measures.refusals(of(Window(usual, fewer_of_one)), DEFAULT_POLICY)
    assert found.size == pytest.approx([0.04])
    assert (found.harmful.tolist(), found.safe.tolist()) == ([True], [False])
    same = measures.refusals(of(Window(usual, usual)), DEFAULT_POLICY)
    assert (same.harmful.tolist(), same.safe.tolist()) == ([False], [True])
    few = measures.refusals(of(Window(usual, Arm(100))), DEFAULT_POLICY)
    assert (few.harmful.tolist(), few.safe.tolist()) == ([False], [False])


def reported(settled: int, grew: int, peak: float = 0.4, starts: tuple[int, ...] = ()) -> Arm:
    return Arm(reports=Reports(settled + 20, settled, grew, 4 * grew, peak, starts))


@pytest.mark.parametrize(
    ("stable", "candidate", "harmful", "safe"),
    [
        (reported(400, 1), reported(100, 1), False, True),
        (reported(400, 1), reported(30, 30), True, False),  # within 50 calls: a leak with each
        (reported(400, 1), reported(400, 130), True, False),  # a third of a megabyte a call
        (reported(400, 1), reported(400, 40), False, True),  # a young environment, or large images
        (reported(400, 200), reported(100, 50), False, True),  # stable leaks as well
        (reported(0, 0), reported(30, 30), False, False),  # nothing to compare with
        (reported(400, 1), reported(5, 0), False, False),  # too few
        (reported(400, 1), reported(100, 1, peak=0.93), False, False),  # soon out of memory
        (reported(400, 1, peak=0.95), reported(100, 1, peak=0.93), False, True),
    ],
)
def test_memory_that_grows_with_the_calls_is_a_leak(
    stable: Arm, candidate: Arm, harmful: bool, safe: bool
) -> None:
    found = measures.memory(of(Window(stable, candidate)), DEFAULT_POLICY)
    assert (found.harmful.tolist(), found.safe.tolist()) == ([harmful], [safe])


@pytest.mark.parametrize(
    ("stable", "candidate", "harmful", "safe"),
    [
        ((0, 0, 40, 0, 0, 0), (0, 0, 30, 0, 0, 0), False, True),
        ((0, 0, 40, 0, 0, 0), (0, 0, 0, 0, 30, 0), True, False),  # all of 30, three times as long
        ((0, 0, 40, 0, 0, 0), (0, 0, 0, 0, 8, 0), False, False),  # eight may be chance
        ((0, 0, 40, 0, 0, 0), (0, 0, 0, 0, 2, 0), False, True),  # of two nobody can tell
        ((0, 0, 2, 0, 0, 0), (0, 0, 0, 0, 30, 0), False, True),  # nor of stable's two
        ((0, 0, 25, 0, 15, 0), (0, 0, 0, 0, 24, 0), False, False),  # not proven, and no chance
        ((), (0, 0, 0, 0, 30, 0), False, True),  # nothing to compare with
        ((0, 0, 40, 0, 0, 0), (), False, True),  # nobody waited
    ],
)
def test_cold_starts_are_compared_with_all_of_stables(
    stable: tuple[int, ...], candidate: tuple[int, ...], harmful: bool, safe: bool
) -> None:
    first = Window(reported(9, 0, starts=stable), reported(9, 0))
    arrays = of(first, Window(reported(9, 0), reported(9, 0, starts=candidate)))
    found = measures.cold_start(arrays, DEFAULT_POLICY)
    assert (found.harmful.tolist()[-1], found.safe.tolist()[-1]) == (harmful, safe)
    assert not measures.cold_start(of(Window(NOBODY, NOBODY)), DEFAULT_POLICY).safe.any()


def test_one_line_with_a_secret_is_enough() -> None:
    clean, leaking = Arm(lines=900), Arm(lines=900, secrets={"an API key": 1})
    found = measures.log_content(of(Window(NOBODY, clean), Window(NOBODY, leaking)))
    assert (found.harmful.tolist(), found.safe.tolist()) == ([False, True], [True, False])


def test_the_replay_carries_what_callers_are_too_few_for() -> None:
    """A caller a minute proves nothing; ten thousand golden images do, by the calls they take."""
    called = replace(latencies(0, 5000, 0, 0, 0, 0), requests=5000)
    quiet = Window(Arm(10), Arm(1), Replay(5000), called, called)
    for name in ("errors", "refusals", "latency"):
        found = getattr(measures, name)(of(quiet), DEFAULT_POLICY)
        assert (found.harmful.tolist(), found.safe.tolist()) == ([False], [True]), name
        busy = getattr(measures, name)(of(quiet), Policy(fewest_requests=0))
        assert busy.safe.tolist() == [False], name
    failing = replace(called, requests=5250, errors=250)
    slow = replace(latencies(0, 0, 0, 5000, 0, 0), requests=5000)
    refusing = replace(called, requests=6000, refusals={"415": 1000})
    for name, calls in (("errors", failing), ("latency", slow), ("refusals", refusing)):
        window = Window(Arm(10), Arm(1), Replay(5000), called, calls)
        assert getattr(measures, name)(of(window), DEFAULT_POLICY).harmful.tolist() == [True], name


def test_errors_of_the_few_callers_are_not_diluted_by_the_replay() -> None:
    called = replace(latencies(0, 5000, 0, 0, 0, 0), requests=5000)
    window = Window(Arm(300), Arm(60, 20), Replay(5000), called, called)
    assert measures.errors(of(window), DEFAULT_POLICY).harmful.tolist() == [True]


# --- Many releases at once ------------------------------------------------------------------------


def together(*releases: EvidenceArrays) -> EvidenceArrays:
    """As the simulation has them: an axis of releases in front."""
    arms: dict[str, Any] = {
        arm: ArmArrays(
            **{
                field.name: np.stack([getattr(getattr(r, arm), field.name) for r in releases])
                for field in fields(ArmArrays)
            }
        )
        for arm in ("stable", "candidate", "replay_stable", "replay_candidate")
    }
    golden = np.stack([release.golden for release in releases])
    return EvidenceArrays(releases[0].edges, **arms, golden=golden)


ALONE = [
    of(
        Window(
            full(90, 5, 3, classes=(40, 60)), full(20, 9, 2, classes=(15, 5)), Replay(50, 9, 3, 2)
        ),
        Window(
            full(80, 9, 1, classes=(50, 40)), full(70, 2, 9, classes=(30, 50)), Replay(40, 8, 1)
        ),
        Window(
            full(70, 1, 9, classes=(30, 50)), full(60, 8, 7, classes=(20, 45)), Replay(60, 1, 5)
        ),
    ),
    of(
        Window(
            full(10, 90, 1, classes=(70, 30)), full(9, 30, 9, classes=(20, 28)), Replay(10, 1, 7)
        ),
        Window(NOBODY, full(5, 5, 5, classes=(5, 10))),
        Window(
            full(50, 30, 8, classes=(30, 50)), full(1, 50, 40, classes=(80, 9)), Replay(5, 5, 5)
        ),
    ),
]


@pytest.mark.parametrize("name", ["errors", "latency", "accuracy", "disagreement"])
def test_releases_side_by_side_are_measured_as_each_alone(name: str) -> None:
    measure = getattr(measures, name)
    found = measure(together(*ALONE), DEFAULT_POLICY)
    for place, release in enumerate(ALONE):
        alone = measure(release, DEFAULT_POLICY)
        for field in fields(alone):
            expected = getattr(alone, field.name)
            assert getattr(found, field.name)[place] == pytest.approx(expected), field.name


@pytest.mark.parametrize("what", ["classes", "confidence"])
def test_predictions_side_by_side_are_counted_as_each_alone(what: str) -> None:
    found = signal_counts(together(*ALONE), what)
    for place, release in enumerate(ALONE):
        alone = signal_counts(release, what)
        for name in ("live", "shares", "size"):
            assert getattr(found, name)[place] == pytest.approx(getattr(alone, name))
        last = found.at((place, -1))
        assert last.live.tolist() == alone.live[-1].tolist()
        assert (last.shares.tolist(), last.size) == (alone.shares[-1].tolist(), alone.size[-1])
