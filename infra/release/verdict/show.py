"""A verdict as a table for people."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.release.verdict.evidence import Evidence
from infra.release.verdict.verdict import Check, Verdict

_COLOURS = {"promote": "green", "hold": "yellow", "roll back": "red"}
_STATES = {"safe": "[green]safe[/]", "unsure": "[yellow]unsure[/]", "harmful": "[red]harmful[/]"}


def show(verdict: Verdict, evidence: Evidence, console: Console) -> None:
    """Every check with what was seen, then the decision and its reasons."""
    arms = [(window.stable, window.canary) for window in evidence.windows]
    requests = sum(canary.requests for _, canary in arms)
    table = Table(
        title=f"Canary {escape(evidence.canary)} beside stable {escape(evidence.stable)}: "
        f"{len(arms)} windows, {requests:,} canary requests",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("check", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("what was seen", ratio=1)
    table.add_column("figures, and their limits", no_wrap=True)
    for check in verdict.checks:
        words = escape(check.words)
        if check.state == "unsure" and check.needed:
            words += f"\n[dim]needs {escape(check.needed)}[/]"
        table.add_row(check.name, _STATES[check.state], words, _figures(check))
    console.print(table)
    colour = _COLOURS[verdict.decision]
    console.print(f"[bold {colour}]{verdict.decision.upper()}[/]")
    before = "needs " if verdict.decision == "hold" else ""
    for reason in verdict.reasons:
        name, _, words = reason.partition(": ")
        console.print(f"  {name}: {before}{words}", markup=False, highlight=False, soft_wrap=True)


def _figures(check: Check) -> str:
    return "\n".join(f"{f.name} {_short(f.value)} / {_short(f.limit)}" for f in check.figures)


def _short(value: float) -> str:
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
