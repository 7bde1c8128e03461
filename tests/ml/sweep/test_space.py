"""The search space says in Optuna's terms what was written in Hydra's."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from ml.sweep.settings import Dimension, Space, SweepError, parse_override


def _dimension(text: str) -> Dimension:
    (dimension,) = Space.parse({"key": text}).dimensions
    return dimension


@pytest.mark.parametrize(
    ("text", "distribution", "size"),
    [
        ("choice(a, b)", CategoricalDistribution(["a", "b"]), 2),
        ("1,2,3", CategoricalDistribution(["1", "2", "3"]), 3),
        ("choice([1,2], [3])", CategoricalDistribution(["[1,2]", "[3]"]), 2),
        ("true,null", CategoricalDistribution(["true", "null"]), 2),
        ("shuffle(3,1,2)", CategoricalDistribution(["3", "1", "2"]), 3),
        ("interval(0, 1)", FloatDistribution(0, 1), None),
        ("tag(log, interval(1e-4, 1))", FloatDistribution(1e-4, 1, log=True), None),
        ("int(interval(1, 8))", IntDistribution(1, 8), 8),
        ("tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True), 64),
        ("range(1, 10, step=3)", IntDistribution(1, 7, step=3), 3),
        ("range(4)", IntDistribution(0, 3), 4),
        ("range(0, 0.3, step=0.1)", FloatDistribution(0, 0.2, step=0.1), 3),
    ],
)
def test_values_in_hydras_syntax_become_a_distribution(
    text: str, distribution: object, size: int | None
) -> None:
    dimension = _dimension(text)
    assert dimension.distribution == distribution
    assert dimension.size == size


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("interval(1, 1)", "the interval is empty, 1.0 must be below 1.0"),
        ("interval(2, 1)", "2.0 must be below 1.0"),
        ("interval(0, inf)", "the ends must be finite"),
        ("range(5, 1)", "the range is empty, 5 must be below 1"),
        ("range(1, 5, step=-1)", "the step must be above 0"),
        ("range(1, 5, step=0)", "the step must be above 0"),
        ("tag(log, interval(0, 1))", "above 0, got 0"),
        ("tag(log, choice(1, 2))", "choices have no order"),
        ("tag(log, range(1, 9, step=2))", "has no step"),
        ("tag(lg, interval(1, 2))", "unknown tag lg; there is log"),
        ("choice(1)", "two values"),
        ("choice(1, 2, 1)", "1 is duplicated"),
        ("choice()", "empty choice"),
        ("interval(a, b)", "str is incompatible"),
        ("interval(0", "no viable alternative"),
        ("3", "is one value and no search"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(SweepError, match=r"^key=") as refused:
        _dimension(text)
    assert complaint in str(refused.value)


def test_a_search_for_nothing_is_refused() -> None:
    with pytest.raises(SweepError):
        Space.parse({})


def test_a_space_of_ranges_and_choices_can_be_counted() -> None:
    assert Space.parse({"a": "1,2", "b": "range(3)"}).size == 6
    assert Space.parse({"a": "1,2", "b": "interval(0,1)"}).size is None


def test_probes_try_every_end_and_every_choice() -> None:
    space = Space.parse({"a": "x,y,z", "b": "interval(0.5,1)"})
    tried = {text for probe in space.probes() for text in probe}
    assert tried == {"a=x", "a=y", "a=z", "b=0.5", "b=1.0"}


def test_a_trial_gives_overrides_and_remembers_their_values() -> None:
    space = Space.parse({"lr": "interval(0,1)", "net": "[1],[2]", "n": "range(9)"})
    trial = FixedTrial({"lr": 0.25, "net": "[2]", "n": 3})
    assert space.suggest(trial) == ["lr=0.25", "net=[2]", "n=3"]
    assert space.overrides(trial.params) == ["lr=0.25", "net=[2]", "n=3"]


@pytest.mark.parametrize(
    ("text", "value", "point"),
    [
        ("[1,2],[3]", [1, 2], "[1,2]"),
        ("1,2", 5, None),
        ("interval(0,1)", 0.5, 0.5),
        ("interval(0,1)", 2, None),
        ("range(0,1,step=0.1)", 0.3, 0.3),
        ("range(0,1,step=0.1)", 0.35, None),
        ("interval(0,1)", "half", None),
        ("interval(0,2)", True, None),
    ],
)
def test_a_plain_value_is_found_in_the_space(text: str, value: object, point: object) -> None:
    assert _dimension(text).find(value) == point


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300))
def test_every_interval_with_two_ends_in_order_is_taken_and_no_other(a: float, b: float) -> None:
    text = f"interval({a!r}, {b!r})"
    if a < b:
        assert _dimension(text).distribution == FloatDistribution(a, b)
    else:
        with pytest.raises(SweepError, match=rf"^key={re.escape(text)}"):
            _dimension(text)


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=9, unique=True))
def test_every_choice_is_an_override_of_the_value_that_was_written(values: list[int]) -> None:
    dimension = _dimension(",".join(str(value) for value in values))
    got = [parse_override(text).value() for text in dimension.probes()]
    assert got == values


@given(st.integers(-50, 50), st.integers(1, 100), st.integers(1, 9), st.sampled_from([1, 10]))
def test_a_range_ends_as_pythons_does_in_tenths_too(
    start: int, length: int, step: int, parts: int
) -> None:
    listed = [number / parts for number in range(start, start + length, step)]
    first, stop, width = (number / parts for number in (start, start + length, step))
    if parts == 1:
        first, stop, width = int(first), int(stop), int(width)
    text = f"range({first}, {stop}, step={width})"
    if len(listed) == 1:
        with pytest.raises(SweepError, match=rf"^key={re.escape(text)}"):
            _dimension(text)
        return
    dimension = _dimension(text)
    assert not isinstance(dimension.distribution, CategoricalDistribution)
    assert dimension.size == len(listed)
    assert dimension.distribution.low == pytest.approx(listed[0])
    assert dimension.distribution.high == pytest.approx(listed[-1])
