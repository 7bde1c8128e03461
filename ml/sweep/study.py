"""The study of a sweep: storage (a journal file or a database), sampler and pruner."""

import fcntl
import hashlib
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GridSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from ml.sweep.plan import Plan
from ml.sweep.settings import Dimension, SweepError, without_password
from ml.sweep.standings import begin_again

_IDENTITY = "identity"


def open_study(plan: Plan, *, create: bool) -> Study:
    """The plan's study, created if ``create`` is set and it is missing.

    Raises:
        SweepError: the storage cannot be used, or has a different sweep of this name.
    """
    directions = [StudyDirection[direction.upper()] for _, direction in plan.objectives]
    sampler, pruner = make_sampler(plan), make_pruner(plan)
    try:
        storage = open_storage(plan)
        if not create:
            return optuna.load_study(
                study_name=plan.name, storage=storage, sampler=sampler, pruner=pruner
            )
        study = optuna.create_study(
            study_name=plan.name,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            directions=directions,
            load_if_exists=True,
        )
    except (SQLAlchemyError, OptunaError, OSError, ImportError) as exc:
        cause = exc.__cause__ or exc
        raise SweepError(
            f"sweep.storage={shown(plan)} cannot be used: {type(cause).__name__}: "
            f"{_first_line(cause)}\nA database is named like postgresql+psycopg://user:password@"
            "host/database, mysql+pymysql://user:password@host/database or sqlite:////path"
        ) from exc
    _check_identity(plan, study)
    return study


def shown(plan: Plan) -> str:
    """The storage's address without a password."""
    return without_password(plan.storage) if plan.storage else str(journal(plan))


def journal(plan: Plan) -> Path:
    return Path(plan.folder) / "journal.log"


def open_storage(plan: Plan) -> BaseStorage:
    """The plan's journal or database."""
    if plan.storage is None:
        path = journal(plan)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
    try:
        return _database(plan)
    except (IntegrityError, ProgrammingError):
        return _database(plan)  # another machine created the tables concurrently


def _database(plan: Plan) -> RDBStorage:
    assert plan.storage is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats
        return RDBStorage(
            plan.storage,
            heartbeat_interval=plan.heartbeat_s,
            grace_period=plan.grace_s,
            heartbeat_stale_trial_callback=partial(begin_again, retries=plan.retries),
        )


def _check_identity(plan: Plan, study: Study) -> None:
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, plan.identity)
    elif known != plan.identity:
        changes = [key for key in plan.identity if known.get(key) != plan.identity[key]]
        lines = [f"  {key}: {known.get(key)}\n  now {plan.identity[key]}" for key in changes]
        raise SweepError(
            f"the sweep {plan.name} in {shown(plan)} is a different one, "
            "whose trials are not comparable:\n"
            + "\n".join(lines)
            + "\nChoose another name: sweep.name=…"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


class JournalLock(JournalFileOpenLock):
    """A lock that the kernel releases when its holder dies, under which an incomplete last line of
    a dead writer is removed.

    Optuna's own locks are files that a killed process leaves behind for half a minute, and its next
    line would be appended to the incomplete one, which would make the journal permanently
    unreadable.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._path = journal.with_name(journal.name + ".lock")
        self._handle = -1

    def acquire(self) -> bool:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._handle = handle
        cut_unfinished_line(self._journal)
        return True

    def release(self) -> None:
        handle, self._handle = self._handle, -1
        os.close(handle)


def cut_unfinished_line(path: Path) -> None:
    """Removes what follows the last line break: its writer died before anyone could read it."""
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 4096)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def make_sampler(plan: Plan) -> BaseSampler:
    """The plan's sampler; within `ml.sweep.settings.configuration` for a grid."""
    if plan.sampler == "grid":
        grid = {d.key: _grid_values(d) for d in plan.parse_space().dimensions}
        return GridSampler(grid, seed=plan.seed)
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: TPESampler(n_startup_trials=plan.startup_trials, seed=seed),
        "random": lambda seed: RandomSampler(seed=seed),
        "nsga2": lambda seed: NSGAIISampler(population_size=plan.startup_trials, seed=seed),
    }
    return SeededByTrial(makers[plan.sampler], plan.seed)


def make_pruner(plan: Plan) -> BasePruner:
    """The plan's pruner; its steps are epochs."""
    if plan.pruner == "median":
        return MedianPruner(n_startup_trials=plan.startup_trials, n_warmup_steps=1)
    if plan.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=plan.max_epochs)
    return NopPruner()


class SeededByTrial(BaseSampler):
    """Samples each trial from the seed and the trial's number only.

    A sampler's own random state restarts in every process: two workers would sample the same, and a
    resumed sweep would repeat its first trials.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._sampler = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        digest = hashlib.sha256(f"{self._seed} {trial.number}".encode()).digest()
        self._sampler = self._make(int.from_bytes(digest[:4], "big"))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._sampler.after_trial(study, trial, state, values)


def _grid_values(dimension: Dimension) -> list[Any]:
    distribution = dimension.distribution
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    size, step = dimension.size, distribution.step
    assert size is not None
    assert step is not None
    return [min(distribution.low + i * step, distribution.high) for i in range(size)]
