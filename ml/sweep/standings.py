"""The trials of a study: which count, which were lost or repeated, and their ranking."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ml.sweep.plan import Plan
from ml.sweep.settings import Space

Outcome = Literal["finished", "pruned", "failed", "lost", "surplus", "running", "waiting"]
# User attributes of a trial.
WORKER = "worker"  # its worker
DIGEST = "digest"  # of configuration, data, code and packages
ERROR = "error"  # reason of a failure
SURPLUS = "surplus"  # started concurrently with the last one
REUSED = "reused"  # number of the identical trial
ORIGIN = "origin"  # number of the lost trial that it continues, in the same folder
ATTEMPT = "attempt"  # number of workers lost with it before
RETRY = "retry"  # number of the failed trial that it retries
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def outcome(trial: FrozenTrial) -> Outcome:
    match trial.state:
        case TrialState.COMPLETE:
            return "finished"
        case TrialState.PRUNED:
            return "pruned"
        case TrialState.RUNNING:
            return "running"
        case TrialState.WAITING:
            return "waiting"
    if ERROR in trial.user_attrs:
        return "failed"
    return "surplus" if SURPLUS in trial.user_attrs else "lost"


@dataclass(frozen=True)
class TrialCounts:
    """Progress of a sweep.

    Attributes:
        used: trials that count towards the total: finished, pruned, failed and not retried, or lost
            too often.
        running: trials in progress.
        total: requested number.
    """

    used: int
    running: int
    total: int

    @property
    def is_done(self) -> bool:
        return self.used >= self.total

    @property
    def has_room(self) -> bool:
        """Whether another trial may start."""
        return self.used + self.running < self.total


@dataclass(frozen=True)
class Rules:
    """How trials are counted.

    Attributes:
        n_trials: the requested total.
        retries: how often a lost trial is restarted.
        points: size of a finite space: the sweep is done when all were tried.
        is_grid: repeated points do not count.
    """

    n_trials: int
    retries: int
    points: int | None = None
    is_grid: bool = False

    @classmethod
    def of(cls, plan: Plan, space: Space) -> "Rules":
        """A plan's total, and its space's size."""
        return cls(plan.n_trials, plan.retries, space.size, plan.sampler == "grid")

    def counts(self, trials: Sequence[FrozenTrial], before: int | None = None) -> TrialCounts:
        """The progress of a sweep with these trials; only numbers below ``before``, if given."""
        used = running = 0
        tried = set()
        retried = {trial.user_attrs.get(RETRY) for trial in trials}
        for trial in trials:
            if before is not None and trial.number >= before:
                continue
            match outcome(trial):
                case "failed" if trial.number in retried:
                    pass
                case "finished" | "pruned" | "failed":
                    tried.add(tuple(sorted((k, str(v)) for k, v in trial.params.items())))
                    used += not (self.is_grid and REUSED in trial.user_attrs)
                case "lost":
                    used += trial.user_attrs.get(ATTEMPT, 0) >= self.retries
                case "running":
                    running += 1
        total = self.n_trials
        if self.points is not None and len(tried) >= self.points:
            total = min(total, used)
        return TrialCounts(used, running, total)

    def is_surplus(self, trials: Sequence[FrozenTrial], number: int) -> bool:
        """Whether a trial that has just started exceeds the total: several workers may request the
        last one concurrently; the lowest numbers win.
        """
        return not self.counts(trials, before=number).has_room


def twin(trials: Iterable[FrozenTrial], number: int, digest: str) -> FrozenTrial | None:
    """An earlier trial with the same digest that is finished, or else running."""
    same = [
        trial
        for trial in trials
        if trial.number != number and trial.user_attrs.get(DIGEST) == digest
    ]
    for trial in same:
        if trial.state in _FINISHED:
            return trial
    return next((t for t in same if t.state == TrialState.RUNNING and t.number < number), None)


def retry_failed(study: Study) -> int:
    """Queues the values of trials that failed in earlier calls, once each, unless a worker is
    active; returns their number.

    The cause, such as a missing file or a bug, may have been fixed since.
    """
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.RUNNING for trial in trials):
        return 0
    retried = {trial.user_attrs.get(RETRY) for trial in trials}
    failed = [t for t in trials if outcome(t) == "failed" and t.number not in retried]
    for trial in failed:
        _queue(study, trial, {RETRY: trial.number})
    return len(failed)


def give_up_lost(study: Study, trial: FrozenTrial, retries: int, *, counts: bool = True) -> None:
    """Closes a running trial whose worker is gone and requeues it, unless another process was
    faster.
    """
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return
    begin_again(study, trial, retries, counts=counts)


def begin_again(study: Study, trial: FrozenTrial, retries: int, *, counts: bool = True) -> None:
    """Queues the values of a lost trial, unless it was lost too often or has none."""
    attempt = trial.user_attrs.get(ATTEMPT, 0) + counts
    if attempt > retries or not trial.params:
        return
    kept = {key: trial.user_attrs[key] for key in (DIGEST,) if key in trial.user_attrs}
    origin = trial.user_attrs.get(ORIGIN, trial.number)
    reported = trial.intermediate_values
    _queue(study, trial, {**kept, ORIGIN: origin, ATTEMPT: attempt}, reported)


def _queue(
    study: Study,
    trial: FrozenTrial,
    attributes: dict[str, Any],
    reported: dict[int, float] | None = None,
) -> None:
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes,
            system_attrs=trial.system_attrs,
            intermediate_values=reported,
        )
    )


def queue_baseline(plan: Plan, study: Study, space: Space) -> bool:
    """Queues the default configuration as the first trial; False if it is not in the space."""
    params = baseline(plan.compose_trial([]), space)
    if params is not None:
        study.enqueue_trial(params, skip_if_exists=True)
    return params is not None


def baseline(cfg: DictConfig, space: Space) -> dict[str, Any] | None:
    """The point of the space for a configuration."""
    params = {}
    for dimension in space.dimensions:
        value = OmegaConf.select(cfg, dimension.key.lstrip("+"))
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value)
        point = dimension.find(value)
        if point is None:
            return None
        params[dimension.key] = point
    return params


def ranked(study: Study) -> list[FrozenTrial]:
    """Finished trials, best first: by the only objective; with several, the Pareto front first,
    then by the first objective.
    """
    done = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if REUSED not in trial.user_attrs
    ]
    front = {trial.number for trial in front_of(study)}
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    return sorted(done, key=lambda t: (t.number not in front, sign * t.values[0], t.number))


def front_of(study: Study) -> list[FrozenTrial]:
    """The Pareto front of a study with several objectives."""
    if len(study.directions) == 1:
        return []
    return [trial for trial in study.best_trials if REUSED not in trial.user_attrs]


def best(study: Study) -> FrozenTrial | None:
    """The trial to write as an experiment."""
    found = ranked(study)
    return found[0] if found else None


def shown_values(names: Sequence[str], trial: FrozenTrial) -> str:
    """The values of a trial with their names; the last one of a pruned trial."""
    if not trial.values:
        return "–"
    pairs = zip(names, trial.values, strict=False)
    return ", ".join(f"{name} {shown_number(value)}" for name, value in pairs)


def shown_params(trial: FrozenTrial) -> str:
    """The parameters of a trial in short form: keys by their last part if unambiguous."""
    lasts = [key.rpartition(".")[2] for key in trial.params]
    names = {
        key: last if lasts.count(last) == 1 else key
        for key, last in zip(trial.params, lasts, strict=True)
    }
    return "  ".join(f"{names[key]}={shown_number(trial.params[key])}" for key in sorted(names))


def shown_number(value: object) -> str:
    """A number with four digits; text unchanged."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
