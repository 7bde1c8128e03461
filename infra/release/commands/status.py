"""Shows traffic weights, running versions, raised alarms, and who decided what."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.command_line import count
from infra.release.aws.clients import iso
from infra.release.commands.command import (
    Open,
    Result,
    Terminal,
    entry,
    open_context,
    parser,
    run,
)
from infra.release.state.ledger import Decision, Record

_COLOURS = {
    "promoted": "green",
    "promote": "green",
    "roll back": "red",
    "rolled back": "red",
    "failed": "red",
    "stop": "yellow",
}


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), status, open_, out, errors)


def status(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Result:
    """Reads the ledger, the alias, the lease and the alarms."""
    context = open_context(options, terminal, open_)
    outputs, function, journal = context.outputs, context.function, context.journal()
    alias, raised = function.alias(), context.raised_alarms()
    holder, unfinished = context.lease.holder(), journal.unfinished
    models = _models(journal.records)
    data: dict[str, Any] = {
        "env": options.env,
        "function": function.name,
        "url": outputs.api_url or outputs.function_url,
        "alias": alias.weights,
        "versions": {
            version: {"image": function.digest(version), "model": models.get(version)}
            for version in alias.weights
        },
        "alarms": raised,
        "paging_alarms": [name for name in raised if name in outputs.page_alarm_names],
        "running": {"who": holder.who, "what": holder.what, "since": iso(holder.since)}
        if holder
        else None,
        "unfinished": {"release": unfinished.release, "image": unfinished.digest}
        if unfinished
        else None,
        "records": [record.as_dict() for record in journal.records[-options.last :]],
    }
    return Result(data, partial(_show, data, journal.records[-options.last :]))


def _models(records: Sequence[Record]) -> dict[str, str]:
    """Model version of each version of the function, as recorded by its release."""
    found: dict[str, str] = {}
    for decision in (record.decision for record in records):
        if decision.kind == "begin" and decision.from_version:
            if model := decision.evidence.get("stable_model"):
                found[decision.from_version] = model
        elif decision.kind == "test" and decision.to_version and decision.model_version:
            found[decision.to_version] = decision.model_version
    return found


def _show(data: dict[str, Any], records: Sequence[Record], console: Console) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    line(f"[bold]{data['env']}[/]  {escape(data['function'])}  {escape(data['url'])}")
    for version, share in data["alias"].items():
        facts = data["versions"][version]
        line(
            f"  {100 * share:5.4g} %  version {version}  model {(facts['model'] or 'unknown')[:12]}"
            f"  {facts['image'][:19]}…"
        )
    if data["running"]:
        running = data["running"]
        line(f"[yellow]running[/]  {escape(running['who'])}: {escape(running['what'])}")
    elif data["unfinished"]:
        unfinished = data["unfinished"]
        line(
            f"[yellow]unfinished[/]  release {unfinished['release']}: its run is gone. Deploy "
            f"{unfinished['image']} again to go on, or roll back; `bazel run //infra:watch`, where "
            "it is scheduled, goes on by itself"
        )
    raised = (
        f"[{'red' if name in data['paging_alarms'] else 'yellow'}]{escape(name)}[/]"
        for name in data["alarms"]
    )
    line(f"alarms   {', '.join(raised) or '[green]none[/]'}")
    console.print(_table(records))


def _table(records: Sequence[Record]) -> Table:
    table = Table(title="Ledger", title_justify="left")
    for name in ("no.", "when (UTC)", "who", "decision", "from → to", "traffic", "verdict"):
        table.add_column(name, no_wrap=name in ("when (UTC)", "decision"))
    table.add_column("why", ratio=1)
    before = ""
    for record in records:
        one = record.decision
        colour = _COLOURS.get(one.kind, "default")
        weights = ", ".join(f"{100 * share:.4g} % to {v}" for v, share in one.weights.items())
        table.add_row(
            str(record.number),
            one.when[:19].replace("T", " "),
            escape(one.who),
            f"[{colour}]{one.kind}[/]",
            f"{one.from_version or '–'} {_arrow(one)} {one.to_version or '?'}",
            weights,
            one.verdict,
            escape("as before" if one.why and one.why == before else one.why),
        )
        before = one.why
    return table


def _arrow(one: Decision) -> str:
    """Towards the version that got the traffic; a rollback's `from` is where it went."""
    return "←" if one.kind in ("roll back", "rolled back") else "→"


def _options() -> argparse.ArgumentParser:
    found = parser("status", __doc__ or "", "--env prod", "--env prod --last 50 --json")
    found.add_argument("--last", type=count, default=12, metavar="N", help="records (%(default)s)")
    return found


if __name__ == "__main__":
    entry(main)
