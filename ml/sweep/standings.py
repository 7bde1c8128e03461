"""Ranks trials and formats them."""

from collections.abc import Sequence

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ml.sweep.ledger import REUSED


def ranked(study: Study) -> list[FrozenTrial]:
    """Trained and finished trials, best first: by the only objective; with several, those on the
    Pareto front before the others, each by the first objective."""
    done = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if REUSED not in trial.user_attrs
    ]
    front = {trial.number for trial in front_of(study)}
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    return sorted(done, key=lambda t: (t.number not in front, sign * t.values[0], t.number))


def front_of(study: Study) -> list[FrozenTrial]:
    """With several objectives, the trials than which none is better in all of them."""
    if len(study.directions) == 1:
        return []
    return [trial for trial in study.best_trials if REUSED not in trial.user_attrs]


def best(study: Study) -> FrozenTrial | None:
    """The trial that is written back."""
    found = ranked(study)
    return found[0] if found else None


def shown_values(names: Sequence[str], trial: FrozenTrial) -> str:
    """The values of a trial with their names; of a pruned one its last."""
    if not trial.values:
        return "–"
    pairs = zip(names, trial.values, strict=False)
    return ", ".join(f"{name} {shown_number(value)}" for name, value in pairs)


def shown_params(trial: FrozenTrial) -> str:
    """The parameters of a trial, short enough for a line: keys by their last part where that says
    it."""
    lasts = [key.rpartition(".")[2] for key in trial.params]
    names = {
        key: last if lasts.count(last) == 1 else key
        for key, last in zip(trial.params, lasts, strict=True)
    }
    return "  ".join(f"{names[key]}={shown_number(trial.params[key])}" for key in sorted(names))


def shown_number(value: object) -> str:
    """Four digits of a number, all of a text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
