"""Releases an image to an environment: preflight checks, Terraform, a new version, canary steps,
verdict.

Goes on with a release that was killed or stopped, if the image is the same. Everything is in the
ledger before it happens; a bad version is rolled back without being asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from msgspec import structs
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.terminal import Progress
from infra.release.aws.infrastructure import Infrastructure
from infra.release.commands.command import Answer, Open, Terminal, entry, parser, run
from infra.release.commands.session import Session, aws_of, golden_of, image_of, settings_of
from infra.release.errors import Refused
from infra.release.rollout.baking import Alarms
from infra.release.rollout.observer import Observer
from infra.release.rollout.preflight import Check, Image, alarm_states, check_all
from infra.release.rollout.rollout import Machine, Wanted
from infra.release.rollout.timeline import ConsoleTimeline
from infra.release.settings import MEANING, STRATEGIES, Settings, StrategyName
from infra.release.state.journal import admit
from infra.release.state.ledger import Outcome
from infra.terraform.plan import show_plan


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), deploy, open_, out, errors)


def deploy(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Answer:
    """Releases an image to an environment."""
    settings = settings_of(options)
    strategy: StrategyName = options.strategy or settings.strategy
    golden = golden_of(options.golden)
    infrastructure = open_(options, terminal)
    outputs = infrastructure.outputs()
    aws = aws_of(settings, outputs)
    image = image_of(options.image, aws, outputs)
    with Progress("checking", console=terminal.log) as progress:
        checks, registered = check_all(
            aws,
            settings.preflight,
            image,
            outputs.region if outputs else "",
            outputs.drift_alarm if outputs else None,
            options.ignore_drift,
            lambda text: progress.update(detail=text),
        )
    _show_checks(checks, terminal.log)
    if failed := [check for check in checks if not check.passed and check.blocks]:
        raise Refused("; ".join(f"{check.name}: {check.detail}" for check in failed))
    if outputs and (options.dry_run or not terminal.agreed):  # before anybody is asked
        session = Session(options.env, settings, aws, outputs, terminal)
        admit(session.journal(), image.digest, options.again)
    if options.dry_run:
        return _dry_run(infrastructure, image, settings, strategy, checks, terminal)
    terminal.confirm(f"Deploy {image.digest[:19]}… to {options.env} by {strategy}?")
    is_first = outputs is None
    outputs = outputs or infrastructure.apply(image.uri)
    session = Session(options.env, settings, aws_of(settings, outputs), outputs, terminal)
    timeline = ConsoleTimeline(terminal.log)
    what = f"deploy {image.digest[:19]}…"
    model = options.model_version or registered
    wanted = Wanted(image.digest, strategy, model, options.reason, options.again)
    with (
        session.lease.held(session.who, what, options.take_over) as before,
        timeline.shown(),
    ):
        if before:
            timeline.event(f"took over from {before.who} (`{before.what}`)", "yellow")
        observer = Observer(
            settings,
            session.function,
            session.collector,
            golden,
            session.notices,
            session.journal(),
            timeline,
            session.clock,
        )
        machine = Machine(
            options.env,
            observer,
            Alarms(
                outputs.alarm_names,
                outputs.page_alarm_names,
                partial(alarm_states, session.aws),
            ),
            session.lease.check,
            (lambda: None) if is_first else lambda: _apply(infrastructure, image),
        )
        outcome = machine.run(wanted)
    return Answer(_data(outcome, image), partial(_show, outcome), outcome.exit_code)


def _apply(infrastructure: Infrastructure, image: Image) -> None:
    infrastructure.apply(image.uri)


def _dry_run(
    infrastructure: Infrastructure,
    image: Image,
    settings: Settings,
    strategy: StrategyName,
    checks: Sequence[Check],
    terminal: Terminal,
) -> Answer:
    plan = infrastructure.plan(image.uri)
    steps = settings.steps(strategy)
    data = {
        "dry_run": True,
        "image": image.uri,
        "strategy": strategy,
        "checks": [vars(check) for check in checks],
        "terraform": {"changed": plan.changed, "counts": plan.counts},
        "steps": [structs.asdict(step) for step in steps],
    }

    def show(console: Console) -> None:
        show_plan(plan, "Terraform would change", console)
        table = Table(title=f"{strategy}: {MEANING[strategy]}", title_justify="left")
        for name in ("step", "traffic", "at least", "looks every", "goes on with"):
            table.add_column(name, justify="left" if name == "goes on with" else "right")
        for place, step in enumerate(steps, start=1):
            needs = "proof that it is safe" if step.proof else "no proof of harm"
            share = f"{100 * step.weight:.4g} %"
            table.add_row(str(place), share, f"{step.bake_s:g} s", f"{step.look_s:g} s", needs)
        table.add_row(
            str(len(steps) + 1), "100 %", f"{settings.watch_s:g} s", "", "no paging alarm"
        )
        console.print(table)
        console.print("Dry run: nothing was changed.")

    return Answer(data, show)


def _data(outcome: Outcome, image: Image) -> dict[str, Any]:
    return {
        "outcome": outcome.kind,
        "text": outcome.text,
        "exit_code": outcome.exit_code,
        "image": image.uri,
        "record": dict(outcome.data),
    }


def _show(outcome: Outcome, console: Console) -> None:
    if outcome.kind == "reported":
        console.print(_report(outcome.data["evidence"]))
    colour = {0: "green", 10: "yellow"}.get(outcome.exit_code, "red")
    console.print(
        f"[bold {colour}]{outcome.kind.upper()}[/]  {escape(outcome.text)}",
        highlight=False,
        soft_wrap=True,
    )


def _report(evidence: dict[str, Any]) -> Table:
    """What a split showed, side by side."""
    versions = list(evidence["requests"])
    table = Table(title=f"The split, {evidence['windows']} windows", title_justify="left")
    table.add_column("")
    for version in versions:
        table.add_column(f"version {version}", justify="right")
    for name in ("requests", "errors"):
        table.add_row(name, *(f"{evidence[name][version]:,}" for version in versions))
    if evidence["golden"]:
        accuracies = (f"{evidence['golden'][version]:.2%}" for version in versions)
        table.add_row(f"accuracy on {evidence['golden_images']:,} golden images", *accuracies)
    for name in evidence["classes"][versions[0]]:
        answers = [sum(evidence["classes"][version].values()) for version in versions]
        counts = [evidence["classes"][version].get(name, 0) for version in versions]
        parts = (count / max(1, all_) for count, all_ in zip(counts, answers, strict=True))
        table.add_row(f"answered {name}", *(f"{part:.1%}" for part in parts))
    return table


def _show_checks(checks: Sequence[Check], console: Console) -> None:
    for check in checks:
        mark = "[green]✓[/]" if check.passed else "[red]✗[/]" if check.blocks else "[yellow]![/]"
        console.print(
            f"{mark} {check.name}: {escape(check.detail)}", highlight=False, soft_wrap=True
        )


def _options() -> argparse.ArgumentParser:
    found = parser(
        "deploy",
        __doc__ or "",
        "--env staging --image 123456789012.dkr.ecr.eu-central-1.amazonaws.com/kiln@sha256:9c1f…",
        "--env prod --image sha256:9c1f… --dry-run",
        "--env prod --image sha256:9c1f… --strategy blue-green --yes --json",
    )
    found.add_argument(
        "--image", required=True, metavar="URI", help="REPOSITORY@sha256:…, or the digest alone"
    )
    meanings = "; ".join(f"{name}: {text}" for name, text in MEANING.items())
    found.add_argument(
        "--strategy", choices=STRATEGIES, help=f"{meanings} (default: as the config says)"
    )
    found.add_argument("--dry-run", action="store_true", help="check and plan, change nothing")
    found.add_argument(
        "--model-version", metavar="HEX", help="version, or its start, that the image must serve"
    )
    found.add_argument(
        "--golden", metavar="FILE", help="golden set (default: the bundled one), or none"
    )
    found.add_argument(
        "--ignore-drift", action="store_true", help="deploy although the drift alarm is raised"
    )
    found.add_argument(
        "--take-over", action="store_true", help="although another run holds the lease: it stops"
    )
    found.add_argument(
        "--again", action="store_true", help="although this image was rolled back the last time"
    )
    found.add_argument("--reason", default="", metavar="TEXT", help="kept in the ledger")
    return found


if __name__ == "__main__":
    entry(main)
