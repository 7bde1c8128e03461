"""Suggestions depend on the seed and the trial's number, not on the process that asks."""

from pathlib import Path

import optuna
import pytest

from ml.sweep.plan import Plan
from ml.sweep.settings import configuration
from ml.sweep.study import make_pruner, make_sampler
from tests.ml.sweep.plans import small_plan


def _asked(plan: Plan, study: optuna.Study) -> list[float]:
    """One suggestion by a process that has just begun."""
    study.sampler = make_sampler(plan)
    trial = study.ask()
    values = [trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)]
    study.tell(trial, sum(values))
    return values


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_sweep_that_continues_does_not_repeat_its_beginning(sampler: str, tmp_path: Path) -> None:
    plan = small_plan(tmp_path, sampler=sampler, startup_trials=3)
    study = optuna.create_study(direction="maximize")
    broken = [_asked(plan, study) for _ in range(8)]  # a new process for every trial
    assert len({tuple(values) for values in broken}) == 8

    unbroken = optuna.create_study(direction="maximize", sampler=make_sampler(plan))
    unbroken.optimize(lambda t: t.suggest_float("a", 0, 1) + t.suggest_float("b", 0, 1), 8)
    assert [list(trial.params.values()) for trial in unbroken.trials] == broken


def test_another_seed_makes_another_sweep(tmp_path: Path) -> None:
    plans = [small_plan(tmp_path, seed=seed) for seed in (0, 1)]
    first = [_asked(plan, optuna.create_study(direction="maximize")) for plan in plans]
    assert first[0] != first[1]


def test_a_grid_tries_every_point_once(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, sampler="grid", space={"a": "x,y", "b": "range(0,0.3,step=0.1)"})
    with configuration():
        space = plan.parse_space()
        study = optuna.create_study(sampler=make_sampler(plan))
    study.optimize(lambda trial: float(len(space.suggest(trial))), n_trials=6)
    points = {(t.params["a"], round(t.params["b"], 6)) for t in study.trials}
    assert points == {(a, b) for a in "xy" for b in (0.0, 0.1, 0.2)}


def test_several_objectives_can_be_sampled_by_a_population(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, sampler="nsga2", startup_trials=4)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make_sampler(plan))
    study.optimize(lambda t: (t.suggest_float("a", 0, 1), t.suggest_float("b", 0, 1)), n_trials=12)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 12


@pytest.mark.parametrize(("pruner", "is_pruned"), [("median", True), ("none", False)])
def test_a_trial_that_lags_behind_is_pruned(pruner: str, is_pruned: bool, tmp_path: Path) -> None:
    plan = small_plan(tmp_path, pruner=pruner, startup_trials=2)
    study = optuna.create_study(direction="maximize", pruner=make_pruner(plan))
    for value in (0.8, 0.9, 0.1):
        trial = study.ask()
        for epoch in (1, 2, 3):
            trial.report(value, epoch)
        pruned = trial.should_prune()
        study.tell(trial, value)
    assert pruned == is_pruned


def test_hyperband_spends_up_to_all_epochs(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, pruner="hyperband", max_epochs=9)
    study = optuna.create_study(direction="maximize", pruner=make_pruner(plan))
    ended = []
    for number in range(12):
        trial = study.ask()
        for epoch in range(1, 10):
            trial.report(number % 4, epoch)
            if trial.should_prune():
                break
        ended.append(epoch)
        study.tell(trial, number)
    assert max(ended) == 9
    assert min(ended) < 9
