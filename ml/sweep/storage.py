"""Storage of trials: a journal file by default, or a database for several machines."""

import fcntl
import os
import warnings
from functools import partial
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from ml.sweep.config import SweepError, without_password
from ml.sweep.ledger import begin_again
from ml.sweep.plan import Plan
from ml.sweep.samplers import make_pruner, make_sampler

_IDENTITY = "identity"


def open_study(plan: Plan, *, create: bool) -> optuna.Study:
    """The plan's study, made if ``create`` and it is missing.

    Raises:
        SweepError: the storage cannot be used, or holds another sweep under this name.
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
    """The storage for people: without a password."""
    return without_password(plan.storage) if plan.storage else str(journal(plan))


def journal(plan: Plan) -> Path:
    """The journal of a plan without a database."""
    return Path(plan.folder) / "journal.log"


def open_storage(plan: Plan) -> BaseStorage:
    """The plan's journal or database, whatever studies it holds."""
    if plan.storage is None:
        path = journal(plan)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
    try:
        return _database(plan)
    except (IntegrityError, ProgrammingError):
        return _database(plan)  # another machine made the same tables at the same moment


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


def _check_identity(plan: Plan, study: optuna.Study) -> None:
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, plan.identity)
    elif known != plan.identity:
        changes = [key for key in plan.identity if known.get(key) != plan.identity[key]]
        lines = [f"  {key}: {known.get(key)}\n  now {plan.identity[key]}" for key in changes]
        raise SweepError(
            f"the sweep {plan.name} in {shown(plan)} searched something else, "
            "its trials cannot be compared with this one:\n"
            + "\n".join(lines)
            + "\nGive this one a name of its own: sweep.name=…"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


class JournalLock(JournalFileOpenLock):
    """A lock that the system drops when its holder dies, however it dies; and under which a line
    that a dying writer left unfinished is cut off.

    Optuna's own locks are files that a killed process leaves behind, for half a minute; and its
    next line would be glued to the unfinished one, which makes the journal unreadable for good.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._path = journal.with_name(journal.name + ".lock")
        self._handle = -1

    def acquire(self) -> bool:
        """Waits for the lock."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._handle = handle
        cut_unfinished_line(self._journal)
        return True

    def release(self) -> None:
        """Lets the next one in."""
        handle, self._handle = self._handle, -1
        os.close(handle)


def cut_unfinished_line(path: Path) -> None:
    """Removes what stands behind the last line end: its writer died before anybody could read
    it."""
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
