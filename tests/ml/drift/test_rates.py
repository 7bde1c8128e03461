"""ml/drift/rates.py on values whose drift is known."""

from dataclasses import replace

import numpy as np
import pytest

from common.figures import to_png
from common.model.drift import Limits
from common.model.signals import SIGNALS
from ml.drift.evaluate import rates_figure
from ml.drift.observed import Observed
from ml.drift.rates import measure_rates, wilson


@pytest.fixture(scope="module")
def clean() -> Observed:
    random = np.random.default_rng(0)
    values = {name: random.standard_normal(1000) for name in SIGNALS}
    return Observed("clean", random.integers(0, 10, 1000), values)


def test_clean_windows_stay_silent_and_spoiled_ones_are_noticed(clean: Observed) -> None:
    blurred = replace(clean, signals=clean.signals | {"sharpness": clean.signals["sharpness"] - 2})
    rates = measure_rates(
        clean,
        {"blur:5": blurred},
        classes=10,
        sizes=[60, 250],
        clean_windows=40,
        spoiled_windows=10,
        limits=Limits(),
    )
    by_name = {(rate.condition, rate.size): rate for rate in rates}
    assert len(by_name) == 4
    assert by_name["clean", 250].windows >= 40
    assert by_name["clean", 60].alarms + by_name["clean", 250].alarms <= 1
    for size in (60, 250):
        rate = by_name["blur:5", size]
        assert rate.rate == 1
        assert rate.alarms_by_chance == rate.windows
        assert rate.alarms_of_answers == 0
        assert rate.signals["sharpness"] == rate.windows
    assert to_png(rates_figure(rates)).startswith(b"\x89PNG")


def test_chance_is_told_from_what_matters(clean: Observed) -> None:
    loose = Limits(false_alarm_rate=0.5, psi=9, ks=0.9)
    (rate,) = measure_rates(
        clean,
        {},
        classes=10,
        sizes=[250],
        clean_windows=100,
        spoiled_windows=0,
        limits=loose,
    )
    assert rate.alarms == 0
    assert 0 < rate.alarms_by_chance < 60


def test_windows_larger_than_a_half_are_refused(clean: Observed) -> None:
    with pytest.raises(ValueError, match="windows of 501 images need 1002, there are 1000"):
        measure_rates(
            clean,
            {},
            classes=10,
            sizes=[501],
            clean_windows=1,
            spoiled_windows=1,
            limits=Limits(),
        )


def test_the_interval_of_a_rate_holds_at_the_ends() -> None:
    low, high = wilson(0, 10_000)
    assert (low, high) == pytest.approx((0, 0.000384), abs=1e-6)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert wilson(10, 10)[1] == 1
