"""benchmarks/live: seeded streams of labelled answers."""

from benchmarks.live.labels import PLANS, Plan, simulate


def test_intervals_hold_at_every_look_where_unweighted_labels_are_far_off() -> None:
    plan = Plan("few", 0.9, 0.2, 0.5, 3000)
    found = simulate(plan, 60, seed=3)
    assert found.held >= 0.95
    assert found.naive < -0.02
    assert found.error < 0.02
    assert 0 < found.width < 0.3


def test_equal_seeds_give_equal_streams() -> None:
    plan = Plan("one", PLANS[0].accuracy, 0.5, 0.5, 200)
    assert simulate(plan, 3, 1) == simulate(plan, 3, 1)
    assert simulate(plan, 3, 1) != simulate(plan, 3, 2)
