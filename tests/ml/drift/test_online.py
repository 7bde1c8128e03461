"""ml/drift/online.py on values whose drift is known, and what the program writes about it."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from common.model.drift import WatchLimits
from common.model.signals import SIGNALS
from ml.drift.evaluate_online import main, print_online, write_online
from ml.drift.observed import Observed
from ml.drift.online import Detection, Silence, measure_online

LIMITS = WatchLimits(windows=(100, 200))

Found = tuple[list[Silence], list[Detection]]


@pytest.fixture(scope="module")
def clean() -> Observed:
    random = np.random.default_rng(0)
    values = {name: random.standard_normal(4000) for name in SIGNALS}
    return Observed("clean", random.integers(0, 10, 4000), values)


@pytest.fixture(scope="module")
def found(clean: Observed) -> Found:
    blurred = replace(clean, signals=clean.signals | {"sharpness": clean.signals["sharpness"] - 3})
    return measure_online(
        clean,
        {"blur:5": blurred, "blur:1": clean},
        classes=10,
        limits=LIMITS,
        clean_windows=4,
        streams=2,
        splits=2,
    )


def test_clean_streams_are_silent(found: Found) -> None:
    for silence, window in zip(found[0], LIMITS.windows, strict=True):
        assert (silence.window, silence.windows, silence.judgements) == (window, 4, 40)
        assert silence.alarms == 0
        assert 0 < silence.nearest < 1


def test_spoiled_streams_are_noticed_and_forgotten(found: Found) -> None:
    by_name = {(one.condition, one.window): one for one in found[1]}
    assert len(by_name) == 4
    for window in LIMITS.windows:
        spoiled, unspoiled = by_name["blur:5", window], by_name["blur:1", window]
        assert spoiled.early == 0
        assert spoiled.rate == 1
        assert spoiled.delay is not None
        assert 0 < spoiled.delay <= window
        assert spoiled.relief is not None
        assert window < spoiled.relief <= 3 * window
        assert (unspoiled.rate, unspoiled.delay, unspoiled.relief) == (0, None, None)


def test_a_stream_in_alarm_before_it_is_spoiled_is_no_detection(clean: Observed) -> None:
    jumpy = WatchLimits(windows=(100,), false_alarms=0.05, psi=0, ks=0)
    measured = measure_online(
        clean, {"blur:5": clean}, classes=10, limits=jumpy, clean_windows=2, streams=8, splits=2
    )
    ((silence,), (detection,)) = measured
    assert silence.alarms > 0
    assert detection.early > 0
    assert detection.early + len(detection.delays) <= detection.streams == 8
    shown = StringIO()
    print_online(*measured, jumpy, Console(file=shown, width=140))
    assert f"{detection.early} streams left out: in alarm before" in shown.getvalue()


def test_the_results_are_shown_and_written(found: Found, tmp_path: Path) -> None:
    shown = StringIO()
    print_online(*found, LIMITS, Console(file=shown, width=140))
    assert "Stated: at most one in 100,000,000 images." in shown.getvalue()
    assert "blur:5" in shown.getvalue()
    paths = write_online(*found, {"model": "tiny"}, tmp_path)
    assert [path.name for path in paths] == [
        "drift_online.json",
        "drift_online.png",
        "drift_online.svg",
    ]
    written = json.loads(paths[0].read_text())
    assert [one["alarms"] for one in written["clean"]] == [0, 0]
    assert {one["rate"] for one in written["spoiled"]} == {0, 1}
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_an_unknown_corruption_is_refused_before_anything_is_answered() -> None:
    shown = StringIO()
    assert main(["--corruptions", "rain"], Console(file=shown, width=140)) == 2
    assert "no corruption 'rain', expected one of gaussian_noise" in shown.getvalue()
