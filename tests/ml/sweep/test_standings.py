"""Trials are counted so that the total is exact, whoever dies."""

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ml.sweep import standings
from ml.sweep.standings import Rules

_X: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1)}
_KINDS = ("finished", "pruned", "failed", "lost", "surplus", "running", "waiting")


def _trial(kind: str, number: int = 0, x: float = 0.5, **attributes: Any) -> FrozenTrial:
    states = {
        "finished": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "running": TrialState.RUNNING,
        "waiting": TrialState.WAITING,
    }
    marks: dict[str, dict[str, Any]] = {
        "failed": {standings.ERROR: "?"},
        "surplus": {standings.SURPLUS: True},
    }
    trial = create_trial(
        state=states.get(kind, TrialState.FAIL),
        value=1.0 if kind == "finished" else None,
        params={"x": x},
        distributions=_X,
        user_attrs=marks.get(kind, {}) | attributes,
    )
    trial.number = number
    return trial


def _study(*trials: FrozenTrial) -> optuna.Study:
    study = optuna.create_study()
    study.add_trials(trials)
    return study


@pytest.mark.parametrize("kind", _KINDS)
def test_the_outcome_of_a_trial_is_what_became_of_it(kind: str) -> None:
    assert standings.outcome(_trial(kind)) == kind


def test_lost_trials_give_their_place_back_until_they_were_lost_too_often() -> None:
    trials = [_trial("finished"), _trial("lost"), _trial("lost", attempt=2), _trial("failed")]
    counts = Rules(n_trials=10, retries=2).counts(trials)
    assert (counts.used, counts.running, counts.total) == (3, 0, 10)


def test_a_space_that_was_tried_whole_ends_the_sweep() -> None:
    trials = [_trial("finished", x=0.1), _trial("pruned", x=0.2), _trial("finished", x=0.1)]
    assert not Rules(10, 2, points=3).counts(trials).is_done
    assert Rules(10, 2, points=2).counts(trials).is_done


def test_a_point_of_a_grid_counts_once() -> None:
    trials = [_trial("finished"), _trial("finished", reused=0)]
    assert Rules(10, 2, points=4, is_grid=True).counts(trials).used == 1


@given(st.lists(st.sampled_from(_KINDS), max_size=30), st.integers(1, 10))
def test_trials_that_begin_at_once_never_exceed_the_total(kinds: list[str], total: int) -> None:
    rules = Rules(total, retries=2)
    trials: list[FrozenTrial] = []
    for number, kind in enumerate(kinds):
        trial = _trial(kind, number)
        if kind not in ("lost", "surplus", "waiting") and rules.is_surplus(trials, number):
            trial = _trial("surplus", number)
        trials.append(trial)
    counts = rules.counts(trials)
    assert counts.used + counts.running <= total


def test_a_twin_is_a_finished_trial_or_an_earlier_one_that_runs() -> None:
    finished, running = _trial("finished", 3, digest="d"), _trial("running", 1, digest="d")
    other, failed = _trial("finished", 0, digest="e"), _trial("failed", 2, digest="d")
    assert standings.twin([other, running, failed, finished], 4, "d") is finished
    assert standings.twin([other, running, failed], 4, "d") is running
    assert standings.twin([other, running, failed], 0, "d") is None
    assert standings.twin([other, failed], 4, "d") is None


def test_a_lost_trial_begins_again_with_its_values_in_its_folder() -> None:
    study = _study(_trial("finished"), _trial("running", digest="d", worker="w", x=0.25))
    standings.give_up_lost(study, study.trials[1], retries=2)
    assert standings.outcome(study.trials[1]) == "lost"
    again = study.ask()
    assert again.number == 2
    assert again.suggest_float("x", 0, 1) == 0.25
    assert again.user_attrs == {"digest": "d", "origin": 1, "attempt": 1}


def test_a_trial_that_was_lost_again_keeps_its_first_folder_and_is_given_up_in_the_end() -> None:
    study = _study(_trial("running", origin=7, attempt=1))
    standings.give_up_lost(study, study.trials[0], retries=2)
    assert study.trials[1].user_attrs == {"origin": 7, "attempt": 2}
    study = _study(_trial("running", origin=7, attempt=2))
    standings.give_up_lost(study, study.trials[0], retries=2)
    assert len(study.trials) == 1
    assert Rules(1, retries=2).counts(study.trials).is_done


def test_an_interruption_is_no_loss() -> None:
    study = _study(_trial("running"))
    standings.give_up_lost(study, study.trials[0], retries=0, counts=False)
    assert study.trials[1].user_attrs["attempt"] == 0


def test_a_trial_that_somebody_else_closed_is_left_alone() -> None:
    study = _study(_trial("running"))
    stale = study.trials[0]
    study.tell(0, 1.0)
    standings.give_up_lost(study, stale, retries=2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]


def test_failed_trials_are_tried_again_once_a_call_and_count_once() -> None:
    rules = Rules(n_trials=3, retries=2)
    study = _study(*(_trial("failed", x=x) for x in (0.1, 0.2)), _trial("finished", x=0.3))
    assert rules.counts(study.trials).is_done
    assert standings.retry_failed(study) == 2
    assert standings.retry_failed(study) == 0  # they wait already
    assert rules.counts(study.trials).used == 1
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == 0.1
    assert not rules.is_surplus(study.trials, again.number)
    assert standings.retry_failed(study) == 0  # somebody is at work
    study.tell(again, 1.0)
    assert rules.counts(study.trials).used == 2


def test_a_trial_that_fails_again_counts_and_is_tried_again_by_the_next_call() -> None:
    rules = Rules(n_trials=1, retries=2)
    study = _study(_trial("failed"))
    for calls in (1, 2):
        assert standings.retry_failed(study) == 1
        again = study.ask()
        again.set_user_attr(standings.ERROR, "?")
        study.tell(again, state=TrialState.FAIL)
        assert rules.counts(study.trials).used == 1
        assert len(study.trials) == 1 + calls
