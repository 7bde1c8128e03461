"""Runs a sweep to its total: workers, lost trials, progress, results."""

import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import optuna
from optuna import Study
from optuna.trial import FrozenTrial
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.files import write_whole
from common.terminal import Progress
from ml.sweep import standings
from ml.sweep.plan import Plan
from ml.sweep.report import check_experiment_is_ours, train_command, write_experiment, write_report
from ml.sweep.settings import SweepError
from ml.sweep.standings import TrialCounts, queue_baseline
from ml.sweep.study import open_study, shown
from ml.sweep.supervisor import Leases, Reaper, Workers

_ROWS = 8
_STYLES = {"finished": "green", "pruned": "yellow", "failed": "red", "lost": "magenta"}


class SweepProgress:
    """Shows a study as it grows."""

    def __init__(
        self, console: Console, names: Sequence[str], known: Sequence[FrozenTrial]
    ) -> None:
        self._console = console
        self._names = names
        self._said = {trial.number for trial in known if trial.state.is_finished()}
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._lines = Progress("trials", console=console)
        self._begun = False

    def __enter__(self) -> "SweepProgress":
        if self._console.is_terminal:
            self._live.start()
        else:
            self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._lines.__exit__(None, None, None)

    def show(self, study: Study, counts: TrialCounts) -> None:
        trials = study.get_trials(deepcopy=False)
        if self._console.is_terminal:
            self._live.update(self._picture(study, trials, counts), refresh=True)
        else:
            self._count(trials, counts)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._said:
                self._said.add(trial.number)
                self._say(trial, counts)

    def _count(self, trials: Sequence[FrozenTrial], counts: TrialCounts) -> None:
        """For lines during long trials: number done, and progress of the others."""
        if not self._begun:
            self._lines.begin("trials", counts.total, completed=counts.used)
            self._begun = True
        running = [trial for trial in trials if standings.outcome(trial) == "running"]
        at_work = [f"trial {trial.number} {_detail(trial, self._names)}" for trial in running]
        self._lines.update(
            counts.used, what=f"trials {counts.used}/{counts.total}", detail="; ".join(at_work)
        )

    def _say(self, trial: FrozenTrial, counts: TrialCounts) -> None:
        what = standings.outcome(trial)
        if self._console.is_terminal and what not in ("failed", "lost"):
            return
        self._console.print(
            f"[{counts.used}/{counts.total}] trial {trial.number} {_detail(trial, self._names)}  "
            f"{standings.shown_params(trial)}",
            style=None if what == "finished" else _STYLES.get(what),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def _picture(
        self, study: Study, trials: Sequence[FrozenTrial], counts: TrialCounts
    ) -> RenderableType:
        table = Table(box=None, pad_edge=False, expand=True)
        widths = {"trial": 5, "state": 8, "values": 26}
        for name, width in widths.items():
            table.add_column(name, no_wrap=True, min_width=width)
        table.add_column("parameters", no_wrap=True, ratio=1)
        shown = [t for t in trials if standings.outcome(t) not in ("surplus", "waiting")]
        for trial in shown[-_ROWS:]:
            what = standings.outcome(trial)
            detail = _detail(trial, self._names)
            style = _STYLES.get(what, "cyan")
            table.add_row(
                str(trial.number), what, detail, standings.shown_params(trial), style=style
            )
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=counts.total, completed=counts.used, width=40),
            f"{counts.used} of {counts.total} trials, {counts.running} running",
        )
        leader = standings.best(study)
        best = Text("best so far: –")
        if leader:
            values = standings.shown_values(self._names, leader)
            params = standings.shown_params(leader)
            best = Text(f"best so far: trial {leader.number}, {values}  {params}", style="bold")
        return Group(table, bar, best)


def print_standings(console: Console, study: Study, names: Sequence[str]) -> None:
    """Prints the best trials as a table at the end."""
    table = Table(title="Best trials" if len(names) == 1 else "Best trials, Pareto front first")
    for name in ("trial", *names, "parameters"):
        table.add_column(name, justify="left" if name == "parameters" else "right")
    front = {trial.number for trial in standings.front_of(study)}
    for trial in standings.ranked(study)[: max(5, len(front))]:
        numbers = [standings.shown_number(value) for value in trial.values]
        style = "bold" if trial.number in front else None
        table.add_row(str(trial.number), *numbers, standings.shown_params(trial), style=style)
    if table.row_count:
        console.print(table)


def _detail(trial: FrozenTrial, names: Sequence[str]) -> str:
    match standings.outcome(trial):
        case "finished" | "pruned" as what:
            values = standings.shown_values(names, trial)
            same = trial.user_attrs.get(standings.REUSED)
            again = "" if same is None else f" (same as trial {same})"
            return values + again if what == "finished" else f"pruned at {values}{again}"
        case "failed":
            return f"failed: {trial.user_attrs[standings.ERROR]}"
        case "lost":
            return "lost with its worker, restarted"
        case "running" if trial.intermediate_values:
            epoch = max(trial.intermediate_values)
            return f"epoch {epoch}: {trial.intermediate_values[epoch]:.4g}"
        case what:
            return what


_POLL_S = 0.5
_POLL_DATABASE_S = 2.0  # the database may be remote and busy
_REFUSED = 2  # exit code of a worker that must not be replaced


class SweepFailed(Exception):
    """The sweep stopped before its end; the message says why."""


class Search:
    """A plan running on this machine; within `ml.sweep.settings.configuration`."""

    def __init__(self, plan: Plan, console: Console) -> None:
        check_experiment_is_ours(plan)
        self.plan = plan
        self.console = console
        self.names = [name for name, _ in plan.objectives]
        self.space = plan.parse_space()
        self.rules = standings.Rules.of(plan, self.space)
        self.study = open_study(plan, create=True)
        leases = Leases(Path(plan.folder))
        self.reaper = Reaper(self.study, leases, retries=plan.retries, grace_s=plan.grace_s)
        self.workers = Workers(plan)

    def run(self) -> None:
        """Runs until the total is reached.

        Raises:
            SweepFailed: too many consecutive trials failed, none finished, or workers die before
                training.
        """
        if self.plan.storage is None:
            self.reaper.reap_leftovers()
        known = self.study.get_trials(deepcopy=False)
        if not known and self.plan.start_from_defaults:
            queue_baseline(self.plan, self.study, self.space)
        self._introduce(known, again=standings.retry_failed(self.study))
        try:
            self._work(known)
        finally:
            self.workers.end()
            self.reaper.close(self.workers.names)
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
                self.reaper.reap()
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
            self.workers.start_one()

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
