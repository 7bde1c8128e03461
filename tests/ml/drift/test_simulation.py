"""ml/drift/simulation.py on values whose drift is known, and what evaluate.py writes about it."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from common.figures import to_png
from common.model.drift import DriftLimits, WatchLimits
from common.model.signals import SIGNALS
from ml.drift.evaluate import StreamResults, WindowResults, main, write_results
from ml.drift.observed import Observed
from ml.drift.simulation import measure_streams, measure_windows

LIMITS = WatchLimits(windows=(100, 200))


def _observed(images: int) -> Observed:
    random = np.random.default_rng(0)
    values = {name: random.standard_normal(images) for name in SIGNALS}
    return Observed("clean", random.integers(0, 10, images), values)


@pytest.fixture(scope="module")
def clean() -> Observed:
    return _observed(1000)


def test_clean_windows_stay_silent_and_corrupted_ones_are_noticed(clean: Observed) -> None:
    blurred = replace(clean, signals=clean.signals | {"sharpness": clean.signals["sharpness"] - 2})
    rates = measure_windows(
        clean,
        {"blur:5": blurred},
        classes=10,
        sizes=[60, 250],
        clean_windows=40,
        corrupted_windows=10,
        limits=DriftLimits(),
    )
    by_name = {(rate.condition, rate.size): rate for rate in rates}
    assert len(by_name) == 4
    assert by_name["clean", 250].windows >= 40
    assert by_name["clean", 60].alarms + by_name["clean", 250].alarms <= 1
    for size in (60, 250):
        rate = by_name["blur:5", size]
        assert rate.rate == 1
        assert rate.alarms_by_chance == rate.windows
        assert rate.alarms_of_predictions == 0
        assert rate.signals["sharpness"] == rate.windows
    figure = WindowResults(rates, DriftLimits()).figure()
    assert to_png(figure).startswith(b"\x89PNG")


def test_chance_is_told_from_what_matters(clean: Observed) -> None:
    loose = DriftLimits(false_alarm_rate=0.5, psi=9, ks=0.9)
    (rate,) = measure_windows(
        clean,
        {},
        classes=10,
        sizes=[250],
        clean_windows=100,
        corrupted_windows=0,
        limits=loose,
    )
    assert rate.alarms == 0
    assert 0 < rate.alarms_by_chance < 60


def test_windows_larger_than_a_half_are_refused(clean: Observed) -> None:
    with pytest.raises(ValueError, match=r"501.*1002.*1000"):
        measure_windows(
            clean,
            {},
            classes=10,
            sizes=[501],
            clean_windows=1,
            corrupted_windows=1,
            limits=DriftLimits(),
        )


@pytest.fixture(scope="module")
def found() -> StreamResults:
    clean = _observed(4000)
    blurred = replace(clean, signals=clean.signals | {"sharpness": clean.signals["sharpness"] - 3})
    measured = measure_streams(
        clean,
        {"blur:5": blurred, "blur:1": clean},
        classes=10,
        limits=LIMITS,
        clean_windows=4,
        streams=2,
        splits=2,
    )
    return StreamResults(*measured, LIMITS)


def test_clean_streams_are_silent(found: StreamResults) -> None:
    for quiet, window in zip(found.false_alarms, LIMITS.windows, strict=True):
        assert (quiet.window, quiet.windows, quiet.judgements) == (window, 4, 40)
        assert quiet.alarms == 0
        assert 0 < quiet.nearest < 1


def test_corrupted_streams_are_noticed_and_forgotten(found: StreamResults) -> None:
    by_name = {(one.condition, one.window): one for one in found.detections}
    assert len(by_name) == 4
    for window in LIMITS.windows:
        blurred, unchanged = by_name["blur:5", window], by_name["blur:1", window]
        assert blurred.early == 0
        assert blurred.rate == 1
        assert blurred.delay is not None
        assert 0 < blurred.delay <= window
        assert blurred.relief is not None
        assert window < blurred.relief <= 3 * window
        assert (unchanged.rate, unchanged.delay, unchanged.relief) == (0, None, None)


def test_a_stream_in_alarm_before_it_is_corrupted_is_no_detection() -> None:
    jumpy = WatchLimits(windows=(100,), false_alarms=0.05, psi=0, ks=0)
    measured = measure_streams(
        _observed(4000),
        {"blur:5": _observed(4000)},
        classes=10,
        limits=jumpy,
        clean_windows=2,
        streams=8,
        splits=2,
    )
    ((quiet,), (detection,)) = measured
    assert quiet.alarms > 0
    assert detection.early > 0
    assert detection.early + len(detection.delays) <= detection.streams == 8
    shown = StringIO()
    StreamResults(*measured, jumpy).print(Console(file=shown, width=140))
    assert f"{detection.early} streams" in shown.getvalue()


def test_the_results_are_shown_and_written(found: StreamResults, tmp_path: Path) -> None:
    shown = StringIO()
    found.print(Console(file=shown, width=140))
    assert " 100,000,000 " in shown.getvalue()
    assert "blur:5" in shown.getvalue()
    paths = write_results(found, {"model": "tiny"}, tmp_path / "drift_online")
    assert [path.name for path in paths] == [
        "drift_online.json",
        "drift_online.png",
        "drift_online.svg",
    ]
    written = json.loads(paths[0].read_text())
    assert [one["alarms"] for one in written["clean"]] == [0, 0]
    assert {one["rate"] for one in written["corrupted"]} == {0, 1}
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_an_unknown_corruption_is_refused_before_anything_is_answered() -> None:
    shown = StringIO()
    assert main(["--online", "--corruptions", "rain"], Console(file=shown, width=140)) == 2
    assert "'rain', expected one of gaussian_noise" in shown.getvalue()
