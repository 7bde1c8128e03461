"""Runs a sweep to its total: workers, lost trials, progress, results."""

import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import optuna
from rich.console import Console

from common.files import write_whole
from common.terminal import Progress
from ml.sweep import standings
from ml.sweep.config import SweepError
from ml.sweep.plan import Plan
from ml.sweep.progress import SweepProgress, print_standings
from ml.sweep.report import check_experiment_is_ours, train_command, write_experiment, write_report
from ml.sweep.standings import queue_baseline
from ml.sweep.study import open_study, shown
from ml.sweep.supervisor import Leases, Undertaker, Workers

_POLL_S = 0.5
_POLL_DATABASE_S = 2.0  # the database may be remote and busy
_REFUSED = 2  # exit code of a worker that must not be replaced


class SweepFailed(Exception):
    """The sweep stopped before its end; the message says why."""


class Search:
    """A plan running on this machine; within `ml.sweep.config.configuration`."""

    def __init__(self, plan: Plan, console: Console) -> None:
        check_experiment_is_ours(plan)
        self.plan = plan
        self.console = console
        self.names = [name for name, _ in plan.objectives]
        self.space = plan.parse_space()
        self.rules = standings.Rules.of(plan, self.space)
        self.study = open_study(plan, create=True)
        leases = Leases(Path(plan.folder))
        self.undertaker = Undertaker(self.study, leases, retries=plan.retries, grace_s=plan.grace_s)
        self.workers = Workers(plan)

    def run(self) -> None:
        """Runs until the total is reached.

        Raises:
            SweepFailed: too many consecutive trials failed, none finished, or workers die before
                training.
        """
        if self.plan.storage is None:
            self.undertaker.look_first()
        known = self.study.get_trials(deepcopy=False)
        if not known and self.plan.start_from_defaults:
            queue_baseline(self.plan, self.study, self.space)
        self._introduce(known, again=standings.retry_failed(self.study))
        try:
            self._work(known)
        finally:
            self.workers.end()
            self.undertaker.close(self.workers.names)
        self._check_success()

    def conclude(self) -> None:
        """Writes the page, the tables and the best trial, and prints their locations."""
        counts = self.counts()
        print_standings(self.console, self.study, self.names)
        with Progress("writing the report", console=self.console):
            paths = write_report(self.plan, self.study, counts)
        for label, path in zip(("report", "table", "trials"), paths, strict=True):
            self._say(f"  {label:<11}{path}")
        if best := standings.best(self.study):
            found = len(standings.ranked(self.study))
            try:
                path = write_experiment(self.plan, best, found)
            except SweepError as exc:
                self._say(f"[yellow]{exc}[/]")
                return
            self._say(f"  experiment {path}")
            self._say(f"Train it: {train_command(self.plan)}")

    def counts(self) -> standings.TrialCounts:
        """The study's progress, over all machines."""
        return self.rules.counts(self.study.get_trials(deepcopy=False))

    def _work(self, known: Sequence[optuna.trial.FrozenTrial]) -> None:
        if self.counts().is_done:
            return
        self.workers.start()
        with SweepProgress(self.console, self.names, known) as progress:
            while self.workers.running():
                time.sleep(_POLL_DATABASE_S if self.plan.storage else _POLL_S)
                self.undertaker.look()
                progress.show(self.study, self.counts())
                self._check_failures(len(known))
                self._replace_dead()
                self._drop_checkpoints()
            progress.show(self.study, self.counts())
        self._drop_checkpoints()

    def _replace_dead(self) -> None:
        for name, code, log in self.workers.take_dead():
            began = any(
                trial.user_attrs.get(standings.WORKER) == name
                for trial in self.study.get_trials(deepcopy=False)
            )
            if code == _REFUSED:
                raise SweepError(log)
            if not began:
                raise SweepFailed(f"worker {name} died before its first trial:\n{log}")
            self._say(f"worker {name} died (exit code {code}), it is replaced")
            self.workers.replace_one()

    def _check_failures(self, first: int) -> None:
        """Stops if the newest trials all failed. If others have finished, retried failures do not
        count, so that new trials get their turn.
        """
        found = bool(standings.ranked(self.study))
        ended = [
            trial
            for trial in self.study.get_trials(deepcopy=False)[first:]
            if standings.outcome(trial) in ("finished", "pruned", "failed")
            and not (found and standings.RETRY in trial.user_attrs)
        ]
        newest = ended[-self.plan.max_failures :]
        failed = [trial for trial in newest if standings.outcome(trial) == "failed"]
        if len(failed) == self.plan.max_failures:
            error = failed[-1].user_attrs[standings.ERROR]
            raise SweepFailed(
                f"{len(failed)} trials in a row failed, the last one of: {error}\n"
                f"Logs: {Path(self.plan.folder) / 'workers'}"
            )

    def _check_success(self) -> None:
        if standings.ranked(self.study):
            return
        trials = self.study.get_trials(deepcopy=False)
        failed = [trial for trial in trials if standings.outcome(trial) == "failed"]
        why = f"; the first error: {failed[0].user_attrs[standings.ERROR]}" if failed else ""
        raise SweepFailed(
            f"None of {self.counts().used} trials finished{why}\n"
            f"Logs: {Path(self.plan.folder) / 'workers'}\n"
            "The same command retries the failed ones."
        )

    def _drop_checkpoints(self) -> None:
        if self.plan.keep_checkpoints < 0:
            return
        best = standings.ranked(self.study)[: self.plan.keep_checkpoints]
        ended = [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if standings.outcome(trial) in ("finished", "pruned")
        ]
        _delete_checkpoints(
            self.plan,
            [trial.user_attrs.get(standings.ORIGIN, trial.number) for trial in ended],
            [trial.user_attrs.get(standings.ORIGIN, trial.number) for trial in best],
        )

    def _introduce(self, known: Sequence[optuna.trial.FrozenTrial], again: int) -> None:
        plan, counts = self.plan, self.counts()
        size = "" if self.space.size is None else f" of {self.space.size:,} points"
        objectives = ", ".join(f"{direction} {name}" for name, direction in plan.objectives)
        state = f"continuing after {counts.used} trials" if known else "new"
        state += f", {again} that failed are retried" if again else ""
        self._say(
            f"Sweep {plan.name} ({state}): {plan.n_trials} trials, {objectives}\n"
            f"{plan.sampler}, pruner {plan.pruner}, workers: {plan.workers}; "
            f"{len(self.space.dimensions)} dimensions{size}\n"
            f"Folder: {plan.folder}\nStorage: {shown(plan)}"
        )
        if counts.is_done:
            self._say("All trials are done already: sweep.n_trials=… asks for more.")
        write_whole(Path(plan.folder) / "command.txt", plan.typed + "\n")

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def _delete_checkpoints(plan: Plan, finished: Collection[int], best: Collection[int]) -> None:
    """Deletes checkpoints of finished trials that are not among the best; metrics and configuration
    stay.
    """
    for number in set(finished) - set(best):
        shutil.rmtree(plan.trial_folder(number) / "checkpoints", ignore_errors=True)
