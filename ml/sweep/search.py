"""Runs a sweep: worker processes, lost trials, progress, results."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import optuna
from rich.console import Console

from common.files import write_whole
from common.processes import python_environment
from common.terminal import Progress
from ml.sweep import ledger, standings
from ml.sweep.config import SweepError
from ml.sweep.leases import Leases, Undertaker, new_worker_name
from ml.sweep.ledger import queue_baseline
from ml.sweep.plan import Plan
from ml.sweep.progress import SweepProgress, print_standings
from ml.sweep.report import check_experiment_is_ours, train_command, write_experiment, write_report
from ml.sweep.storage import open_study, shown
from ml.sweep.trial_folder import drop_checkpoints

_TAIL_LINES = 15


@dataclass
class _Process:
    name: str
    log: Path
    popen: subprocess.Popen[str]


class Workers:
    """The workers of this machine.

    They hang on our standard input pipe: however this process ends, they end too.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._processes: list[_Process] = []
        self._count = 0
        self.names: list[str] = []

    def start(self) -> None:
        """Starts the plan's number of workers."""
        for _ in range(self._plan.workers):
            self._start_one()

    def running(self) -> int:
        """How many are at work."""
        return sum(process.popen.poll() is None for process in self._processes)

    def take_dead(self) -> list[tuple[str, int, str]]:
        """Name, exit code and end of the log of those that died since the last call."""
        dead = [p for p in self._processes if p.popen.poll() not in (None, 0)]
        self._processes = [p for p in self._processes if p not in dead]
        return [(p.name, p.popen.returncode, _tail(p.log)) for p in dead]

    def replace_one(self) -> None:
        """Starts another one in place of one that died."""
        self._start_one()

    def end(self) -> None:
        """Ends them at once. What they leave is what a crash would leave: a trial to continue."""
        for process in self._processes:
            process.popen.kill()
        for process in self._processes:
            process.popen.wait()

    def _start_one(self) -> None:
        self._count += 1
        name = new_worker_name(self._count)
        log = Path(self._plan.folder) / "workers" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "ml.sweep.worker", name],
                env=python_environment() | _threads(self._plan),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # the terminal's Ctrl-C is not for them
            )
        pipe: IO[str] | None = popen.stdin
        assert pipe is not None
        try:
            pipe.write(self._plan.to_json() + "\n")
            pipe.flush()
        except BrokenPipeError:
            pass  # it died already; its log says why
        self.names.append(name)
        self._processes.append(_Process(name, log, popen))


def _threads(plan: Plan) -> dict[str, str]:
    """Each worker its share of the cores: more threads than cores wait for each other."""
    cores = len(os.sched_getaffinity(0))
    share = plan.threads or max(1, cores // plan.workers)
    return {name: str(share) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


_POLL_S = 0.5
_POLL_DATABASE_S = 2.0  # which may be far, and have many to answer
_REFUSED = 2  # exit code of a worker that another one could not replace


class SweepFailed(Exception):
    """The sweep stopped before its end; the message says why."""


class Search:
    """One plan at work on this machine; within `ml.sweep.config.configuration`."""

    def __init__(self, plan: Plan, console: Console) -> None:
        check_experiment_is_ours(plan)
        self.plan = plan
        self.console = console
        self.names = [name for name, _ in plan.objectives]
        self.space = plan.parse_space()
        self.rules = ledger.Rules.of(plan, self.space)
        self.study = open_study(plan, create=True)
        leases = Leases(Path(plan.folder))
        self.undertaker = Undertaker(self.study, leases, retries=plan.retries, grace_s=plan.grace_s)
        self.workers = Workers(plan)

    def run(self) -> None:
        """Works until the total is reached.

        Raises:
            SweepFailed: too many trials failed in a row, none finished, or workers die without
                training.
        """
        if self.plan.storage is None:
            self.undertaker.look_first()
        known = self.study.get_trials(deepcopy=False)
        if not known and self.plan.start_from_defaults:
            queue_baseline(self.plan, self.study, self.space)
        self._introduce(known, again=ledger.retry_failed(self.study))
        try:
            self._work(known)
        finally:
            self.workers.end()
            self.undertaker.close(self.workers.names)
        self._check_success()

    def conclude(self) -> None:
        """Writes the page, the tables and the best trial, and says where they are."""
        tally = self.tally()
        print_standings(self.console, self.study, self.names)
        with Progress("writing the report", console=self.console):
            paths = write_report(self.plan, self.study, tally)
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

    def tally(self) -> ledger.Tally:
        """How far the study is, over all machines."""
        return self.rules.tally(self.study.get_trials(deepcopy=False))

    def _work(self, known: Sequence[optuna.trial.FrozenTrial]) -> None:
        if self.tally().is_done:
            return
        self.workers.start()
        with SweepProgress(self.console, self.names, known) as progress:
            while self.workers.running():
                time.sleep(_POLL_DATABASE_S if self.plan.storage else _POLL_S)
                self.undertaker.look()
                progress.show(self.study, self.tally())
                self._check_failures(len(known))
                self._replace_dead()
                self._drop_checkpoints()
            progress.show(self.study, self.tally())
        self._drop_checkpoints()

    def _replace_dead(self) -> None:
        for name, code, log in self.workers.take_dead():
            began = any(
                trial.user_attrs.get(ledger.WORKER) == name
                for trial in self.study.get_trials(deepcopy=False)
            )
            if code == _REFUSED:
                raise SweepError(log)
            if not began:
                raise SweepFailed(f"worker {name} died before its first trial:\n{log}")
            self._say(f"worker {name} died (exit code {code}), another one takes its place")
            self.workers.replace_one()

    def _check_failures(self, first: int) -> None:
        """Stops when the newest trials all failed: a sweep of errors helps nobody. Where others
        have finished, those that failed before and fail again do not keep new ones from their
        turn."""
        found = bool(standings.ranked(self.study))
        ended = [
            trial
            for trial in self.study.get_trials(deepcopy=False)[first:]
            if ledger.outcome(trial) in ("finished", "pruned", "failed")
            and not (found and ledger.RETRY in trial.user_attrs)
        ]
        newest = ended[-self.plan.max_failures :]
        failed = [trial for trial in newest if ledger.outcome(trial) == "failed"]
        if len(failed) == self.plan.max_failures:
            error = failed[-1].user_attrs[ledger.ERROR]
            raise SweepFailed(
                f"{len(failed)} trials in a row failed, the last one of: {error}\n"
                f"Logs: {Path(self.plan.folder) / 'workers'}"
            )

    def _check_success(self) -> None:
        """A sweep that found nothing is none."""
        if standings.ranked(self.study):
            return
        trials = self.study.get_trials(deepcopy=False)
        failed = [trial for trial in trials if ledger.outcome(trial) == "failed"]
        why = f"; the first error: {failed[0].user_attrs[ledger.ERROR]}" if failed else ""
        raise SweepFailed(
            f"None of {self.tally().used} trials finished{why}\n"
            f"Logs: {Path(self.plan.folder) / 'workers'}\n"
            "The same command tries those that failed once more."
        )

    def _drop_checkpoints(self) -> None:
        if self.plan.keep_checkpoints < 0:
            return
        best = standings.ranked(self.study)[: self.plan.keep_checkpoints]
        ended = [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if ledger.outcome(trial) in ("finished", "pruned")
        ]
        drop_checkpoints(
            Path(self.plan.folder),
            [trial.user_attrs.get(ledger.ORIGIN, trial.number) for trial in ended],
            [trial.user_attrs.get(ledger.ORIGIN, trial.number) for trial in best],
        )

    def _introduce(self, known: Sequence[optuna.trial.FrozenTrial], again: int) -> None:
        plan, tally = self.plan, self.tally()
        size = "" if self.space.size is None else f" of {self.space.size:,} points"
        objectives = ", ".join(f"{direction} {name}" for name, direction in plan.objectives)
        state = f"continuing after {tally.used} trials" if known else "new"
        state += f", {again} that failed are tried again" if again else ""
        self._say(
            f"Sweep {plan.name} ({state}): {plan.n_trials} trials, {objectives}\n"
            f"{plan.sampler}, pruner {plan.pruner}, workers: {plan.workers}; "
            f"{len(self.space.dimensions)} dimensions{size}\n"
            f"Folder: {plan.folder}\nStorage: {shown(plan)}"
        )
        if tally.is_done:
            self._say("All trials are done already: sweep.n_trials=… asks for more.")
        write_whole(Path(plan.folder) / "command.txt", plan.typed + "\n")

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)
