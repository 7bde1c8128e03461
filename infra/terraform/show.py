"""Terraform's work as it happens, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.terraform.changes import Plan
from infra.terraform.stream import Event, OnEvent
from tools.progress import Progress

_MARKS = {
    "create": "[green]+[/]",
    "update": "[yellow]~[/]",
    "replace": "[red]±[/]",
    "delete": "[red]-[/]",
    "move": "[cyan]>[/]",
    "import": "[cyan]<[/]",
    "remove": "[yellow].[/]",
}
# Of a mirror's providers: the lock file that it speaks of is the work folder's own.
_EXPECTED = {"Incomplete lock file information for providers"}
_WORDS = {"create": "creating", "update": "changing", "delete": "deleting", "read": "reading"}


@contextmanager
def following(console: Console, title: str) -> Iterator[OnEvent]:
    """A line for each resource that is done, and what is at work now, however long that takes."""
    if not console.is_terminal:
        console.print(f"{title} ...", highlight=False, markup=False, soft_wrap=True)
    with Progress(title, console=console) as progress:
        yield _Follower(console, lambda text: progress.update(detail=text))


def show_plan(plan: Plan, title: str, console: Console) -> None:
    """Every change, then how many of each kind."""
    if not plan.changed:
        console.print(f"{escape(title)}: [green]no changes[/], everything is as written")
        return
    table = Table(title=escape(title), title_justify="left")
    for name in ("", "action", "resource"):
        table.add_column(name, overflow="fold")
    for change in sorted(plan.changes, key=lambda change: change.address):
        why = f" [dim]{escape(change.reason)}[/]" if change.reason else ""
        table.add_row(_MARKS[change.action], change.action, escape(change.address) + why)
    if plan.changes:
        console.print(table)
    counts = ", ".join(f"{number} to {action}" for action, number in plan.counts.items())
    console.print(counts or "only outputs change", highlight=False)


class _Follower:
    """Turns events into lines."""

    def __init__(self, console: Console, say: Callable[[str], None]) -> None:
        self._console, self._say = console, say
        self._busy: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        kind = event.get("type", "")
        if _is_data(event):
            return
        if kind == "diagnostic" and event["@level"] == "warn":
            if event["diagnostic"]["summary"] not in _EXPECTED:
                self._warn(event["diagnostic"])
        elif kind in ("apply_start", "refresh_start"):
            hook: Mapping[str, Any] = event["hook"]
            address = str(hook["resource"]["addr"])
            self._busy[address] = _WORDS.get(str(hook.get("action", "read")), "working on")
            self._say_busy()
        elif kind in ("apply_complete", "apply_errored", "refresh_complete"):
            self._done(kind, event["hook"])

    def _done(self, kind: str, hook: Mapping[str, Any]) -> None:
        address = str(hook["resource"]["addr"])
        self._busy.pop(address, None)
        self._say_busy()
        if kind == "apply_complete":
            mark = _MARKS.get(str(hook["action"]), " ")
            text = f"  {mark} {escape(address)}  [dim]{hook['elapsed_seconds']} s[/]"
            self._console.print(text, highlight=False, soft_wrap=True)
        elif kind == "apply_errored":
            self._console.print(f"  [red]✗[/] {escape(address)}", highlight=False, soft_wrap=True)

    def _say_busy(self) -> None:
        address, word = next(reversed(self._busy.items()), ("", "waiting"))
        more = f" and {len(self._busy) - 1} more" if len(self._busy) > 1 else ""
        self._say(f"{word} {address}{more}".strip())

    def _warn(self, diagnostic: Mapping[str, Any]) -> None:
        text = f"{diagnostic['summary']}: {diagnostic.get('detail', '')}".strip()
        self._console.print(f"[yellow]warning[/] {escape(text)}", highlight=False, soft_wrap=True)


def _is_data(event: Event) -> bool:
    """What is only read is no news."""
    resource: Mapping[str, Any] = event.get("hook", {}).get("resource", {})
    return str(resource.get("resource", "")).startswith("data.")
