"""What a sweep leaves can be read without a network, by people and by tools."""

import csv
import io
import json
import re
import time
from pathlib import Path

import optuna
import pytest
from optuna import Trial, TrialPruned
from plotly.colors import unlabel_rgb
from rich.console import Console

from ml.sweep import standings
from ml.sweep.plan import Plan
from ml.sweep.report import write_report
from ml.sweep.search import SweepProgress, print_standings
from ml.sweep.study import open_study
from tests.ml.sweep.plans import small_plan

_SPACE = {"optimizer.filter_lr": "tag(log,interval(0.01,1))", "network.depths": "[1],[2]"}


def _objective(trial: Trial) -> float:
    rate = trial.suggest_float("optimizer.filter_lr", 0.01, 1, log=True)
    depth = trial.suggest_categorical("network.depths", ["[1]", "[2]"])
    trial.report(rate, 1)
    if trial.number == 3:
        raise TrialPruned
    if trial.number == 4:
        trial.set_user_attr(standings.ERROR, "ValueError: <diverged>")
        raise ValueError
    trial.report(rate / 2, 2)
    if trial.number == 5:
        trial.set_user_attr(standings.REUSED, 2)
    return 0.5 + rate / 4 + (depth == "[2]") / 100


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return small_plan(tmp_path, space=_SPACE, n_trials=12, sampler="random")


@pytest.fixture
def study(plan: Plan) -> optuna.Study:
    study = open_study(plan, create=True)
    study.optimize(_objective, n_trials=12, catch=(ValueError,))
    return study


@pytest.fixture
def front(tmp_path: Path) -> tuple[Plan, optuna.Study]:
    objectives = (("val/accuracy", "maximize"), ("latency_ms", "minimize"))
    plan = small_plan(tmp_path / "front", objectives=objectives, sampler="random", n_trials=8)
    study = open_study(plan, create=True)

    def objective(trial: Trial) -> tuple[float, float]:
        x = trial.suggest_float("label_smoothing", 0, 0.5)
        return x, x + (trial.number % 2)

    study.optimize(objective, n_trials=8)
    return plan, study


def _tally(plan: Plan, study: optuna.Study) -> standings.TrialCounts:
    return standings.Rules(plan.n_trials, plan.retries).counts(study.trials)


def test_the_page_needs_nothing_but_itself(plan: Plan, study: optuna.Study) -> None:
    page = write_report(plan, study, _tally(plan, study))[0].read_text()
    own = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=|url\(|@import""", own)
    assert not re.search(r"<script[^>]+src=", page)
    for title in ("History of", "Importance for", "Parallel coordinates", "by epoch"):
        assert f"<h2>{title}" in own or f"{title} <small>" in own
    assert "Pareto" not in own
    assert "{{" not in own
    assert "&lt;diverged&gt;" in own
    assert "experiment=small_best" in own
    assert own.count('class="plotly-graph-div"') == 4


def test_several_objectives_have_a_front(front: tuple[Plan, optuna.Study]) -> None:
    page = write_report(*front, _tally(*front))[0].read_text()
    assert "<h2>Pareto front" in page
    assert "History of latency_ms" in page
    numbers = {trial.number for trial in standings.front_of(front[1])}
    assert [trial.number in numbers for trial in standings.ranked(front[1])] == [True] * len(
        numbers
    ) + [False] * (8 - len(numbers))
    assert page.count('<tr class="best">') == len(numbers)


def test_importance_is_about_good_values_also_with_several_objectives(tmp_path: Path) -> None:
    from ml.sweep.report import figures

    objectives = (("val/accuracy", "maximize"), ("latency_ms", "minimize"))
    space = {"a": "interval(0,1)", "b": "interval(0,1)"}
    plan = small_plan(tmp_path, objectives=objectives, space=space, n_trials=150)
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0)
    )

    def objective(trial: Trial) -> tuple[float, float]:
        a, b = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)
        # Only b decides who is best, only a who is worst.
        return (b if a > 0.2 else -10 * (1 - a)), b

    study.optimize(objective, n_trials=150)
    with pytest.warns(UserWarning, match="PedAnova"):
        bars = next(figure for title, _, figure in figures(plan, study) if "Importance" in title)
    shares = dict(zip(bars.data[0].y, bars.data[0].x, strict=True))
    assert shares["b"] > shares["a"]


def test_every_trials_line_can_be_seen_on_white(plan: Plan, study: optuna.Study) -> None:
    from ml.sweep.report import figures

    drawn = next(figure for title, _, figure in figures(plan, study) if "Parallel" in title)
    lines = [trace for trace in drawn.data if trace.mode == "lines"]
    shades = [_luminance(trace.line.color, trace.opacity) for trace in lines]
    assert len(lines) == 10
    assert max(shades) < 1.05 / 3 - 0.05  # WCAG 2.2, 1.4.11: a contrast of 3:1 with white
    assert max(shades) > 3 * min(shades)  # and still the better, the darker
    (scale,) = [trace.marker.colorscale for trace in drawn.data if trace.marker.colorscale]
    ends = {scale[0][1], scale[-1][1]}
    assert ends <= {trace.line.color for trace in lines}


def _luminance(colour: str, opacity: float) -> float:
    """Relative luminance on white, by WCAG 2.2."""
    shares = [1 - opacity * (1 - value / 255) for value in unlabel_rgb(colour)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_tables_hold_every_trial(plan: Plan, study: optuna.Study) -> None:
    _, table, text = write_report(plan, study, _tally(plan, study))
    rows = json.loads(text.read_text())
    assert [row["trial"] for row in rows] == list(range(12))
    assert [row["state"] for row in rows[2:5]] == ["finished", "pruned", "failed"]
    assert rows[5]["same_as"] == 2
    assert rows[3]["val/accuracy"] is None
    assert rows[0]["val/accuracy"] == study.trials[0].value
    listed = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["optimizer.filter_lr"] for row in listed] == [
        str(row["optimizer.filter_lr"]) for row in rows
    ]


def test_a_sweep_without_a_finished_trial_has_a_page_too(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    study = open_study(plan, create=True)
    page = write_report(plan, study, _tally(plan, study))[0].read_text()
    assert "no trial has finished yet" in page


def test_a_repetition_is_not_the_best(plan: Plan, study: optuna.Study) -> None:
    numbers = [trial.number for trial in standings.ranked(study)]
    assert len(numbers) == 9
    assert not {3, 4, 5} & set(numbers)
    values = [study.trials[number].value or 0 for number in numbers]
    assert values == sorted(values, reverse=True)


def test_every_ended_trial_is_a_line_where_there_is_no_terminal(
    plan: Plan, study: optuna.Study
) -> None:
    console = Console(file=io.StringIO(), width=200)
    with SweepProgress(console, ["val/accuracy"], study.trials[:2]) as progress:
        for _ in range(2):
            progress.show(study, _tally(plan, study))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 10
    assert lines[0].startswith("[12/12] trial 2 val/accuracy 0.")
    assert "pruned at val/accuracy" in lines[1]
    assert "failed: ValueError: <diverged>" in lines[2]
    assert "(same as trial 2)" in lines[3]


def test_a_long_trial_is_spoken_of_where_there_is_no_terminal(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    study = optuna.create_study()
    study.ask().report(0.5, 3)
    console = Console(file=io.StringIO(), width=200)
    with SweepProgress(console, ["val/accuracy"], []) as progress:
        progress.show(study, _tally(plan, study))
        until = time.monotonic() + 60
        while "trial 0 epoch 3: 0.5" not in console.file.getvalue():  # type: ignore[attr-defined]
            assert time.monotonic() < until
            time.sleep(0.01)
    assert "trials 0/" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_shows_the_newest_trials_a_bar_and_the_best(
    plan: Plan, study: optuna.Study
) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with SweepProgress(console, ["val/accuracy"], []) as progress:
        progress.show(study, _tally(plan, study))
    print_standings(console, study, ["val/accuracy"])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    best = standings.ranked(study)[0]
    assert "12 of 12 trials, 0 running" in text
    assert f"best so far: trial {best.number}" in text
    assert "Best trials" in text
