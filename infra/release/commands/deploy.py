"""Releases an image to an environment: preflight checks, Terraform, a new version, canary steps,
verdict.

Resumes a release that was killed or stopped, if the image is the same. Every decision is in the
ledger before it is carried out; a bad version is rolled back without asking.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from msgspec import structs
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.terminal import Progress
from infra.release.aws.clients import Aws
from infra.release.aws.function import LambdaFunction
from infra.release.commands.command import (
    Open,
    Result,
    Terminal,
    aws_of,
    entry,
    golden_of,
    image_of,
    parser,
    run,
    settings_of,
)
from infra.release.errors import Refused
from infra.release.rollout.context import ReleaseContext
from infra.release.rollout.preflight import Check, Image, check_all, check_watcher, parse_image
from infra.release.rollout.rollout import Rollout, Wanted
from infra.release.settings import MEANING, STRATEGIES, Settings, StrategyName
from infra.release.state.journal import admit
from infra.release.state.ledger import Outcome
from infra.terraform.program import show_plan
from infra.terraform.service import Infrastructure, ServiceOutputs


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), deploy, open_, out, errors)


def deploy(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Result:
    """Releases an image to an environment."""
    settings = settings_of(options)
    strategy: StrategyName = options.strategy or settings.strategy
    golden = golden_of(options.golden)
    watcher = parse_image(options.watcher) if options.watcher else None
    if watcher:
        options.var.append(f"watcher_image_uri={watcher.uri}")
    infrastructure = open_(options, terminal)
    outputs = infrastructure.outputs()
    aws = aws_of(settings, outputs)
    if (name := infrastructure.stateless_name()) and LambdaFunction(aws, name, "live").exists():
        raise Refused(
            f"{name} exists in {aws.region}, and Terraform's state knows nothing of it: name the "
            "state that made it, --state s3://bucket/prefix or KILN_TERRAFORM_STATE. An empty one "
            "would begin anew, without its ledger"
        )
    image = image_of(options.image, aws, outputs)
    with Progress("checking", console=terminal.log):
        checks, registered = check_all(
            aws, settings.preflight, image, outputs, options.ignore_drift
        )
        if watcher:
            checks += check_watcher(aws, settings.preflight, watcher)
    if outputs:  # the first version is live at once
        checks.append(_session(aws, settings, strategy))
    _show_checks(checks, terminal.log)
    if failed := [check for check in checks if not check.passed and check.blocks]:
        raise Refused("; ".join(f"{check.name}: {check.detail}" for check in failed))

    def context_of(outputs: ServiceOutputs, aws: Aws) -> ReleaseContext:
        return ReleaseContext.open(options.env, settings, aws, outputs, terminal.log)

    context = context_of(outputs, aws) if outputs else None
    if context and (options.dry_run or not terminal.agreed):  # before anybody is asked
        admit(context.journal(), image.digest, options.again)
    if options.dry_run:
        return _dry_run(infrastructure, image, settings, strategy, checks, terminal)
    terminal.confirm(f"Deploy {image.digest[:19]}… to {options.env} by {strategy}?")
    apply = infrastructure.apply if context else None
    if context is None:
        outputs = infrastructure.apply(image.uri)
        context = context_of(outputs, aws_of(settings, outputs))
    model = options.model_version or registered
    wanted = Wanted(image, strategy, model, options.reason, options.again, options.ignore_drift)
    what = f"deploy {image.digest[:19]}…"
    with (
        context.lease.held(context.who, what, options.take_over) as before,
        context.timeline.shown(),
    ):
        if before:
            context.timeline.event(f"took over from {before.who} (`{before.what}`)", "yellow")
        outcome = Rollout(context, wanted, golden, apply).run()
    return Result(_data(outcome, image), partial(_show, outcome), outcome.exit_code)


def _session(aws: Aws, settings: Settings, strategy: StrategyName) -> Check:
    """Whether the credentials last for the longest that the release may take."""
    ends_s = aws.session_ends_s()
    if ends_s is None:
        return Check("session", True, "the credentials are renewed, or do not say when they end")
    has_s, needs_s = ends_s - time.time(), settings.longest_s(strategy)
    detail = f"the credentials last for {has_s:.0f} s, {strategy} takes {needs_s:.0f} s at most"
    cure = (
        ": sign in for longer, or set AWS_ROLE_ARN in a job of GitHub Actions that has `id-token: "
        "write`, which renews them"
    )
    good = has_s >= needs_s
    return Check("session", good, detail if good else detail + cure)


def _dry_run(
    infrastructure: Infrastructure,
    image: Image,
    settings: Settings,
    strategy: StrategyName,
    checks: Sequence[Check],
    terminal: Terminal,
) -> Result:
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

    return Result(data, show)


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
        totals = [sum(evidence["classes"][version].values()) for version in versions]
        counts = [evidence["classes"][version].get(name, 0) for version in versions]
        parts = (count / max(1, total) for count, total in zip(counts, totals, strict=True))
        table.add_row(f"predicted {name}", *(f"{part:.1%}" for part in parts))
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
        "--env prod --image …/kiln@sha256:9c1f… --watcher …/kiln@sha256:07aa…",
    )
    found.add_argument(
        "--image", required=True, metavar="URI", help="REPOSITORY@sha256:…, or the digest alone"
    )
    meanings = "; ".join(f"{name}: {text}" for name, text in MEANING.items())
    found.add_argument(
        "--watcher",
        metavar="URI",
        help="image of the function that ends releases whose run is gone, as `bazel run "
        "//infra:push_watch_image` prints it (default: the one that is there, or of envs/*.tfvars)",
    )
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
