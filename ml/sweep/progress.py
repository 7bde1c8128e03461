"""Progress of a sweep: a live table on a terminal, one line per trial elsewhere."""

from collections.abc import Sequence

from optuna import Study
from optuna.trial import FrozenTrial
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.terminal import Progress
from ml.sweep import standings
from ml.sweep.standings import TrialCounts

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
