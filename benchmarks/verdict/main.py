"""Measures the verdict engine on simulated releases: false rollbacks, power and delay.

Every release is a canary as configured for an environment, judged at each look until it is rolled
back, promoted, or out of time. Golden images get the predictions of the bundled INT8 model on the
CIFAR-10 test images. Writes a table, JSON and a plot; the JSON is written after each kind of
release, and --resume continues from it.

  bazel run //infra/release/verdict:simulate    # 10,000 releases of each kind, with prod's settings
  bazel run //infra/release/verdict:simulate -- --releases 200                 # a quick look
  bazel run //infra/release/verdict:simulate -- --config release.toml --rate 100   # yours
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.verdict.rates import Outcome, simulate
from benchmarks.verdict.releases import SCENARIOS, Golden, answer, made_up, plan_of
from common.command_line import command_parser, count
from common.figures import BLUE, RED, STYLE, new_figure, to_png
from common.files import user_path, write_whole
from common.terminal import Progress, terminal
from infra.release.errors import ReleaseError
from infra.release.settings import Settings, read_settings
from infra.release.verdict.policy import profile_policy
from ml.data.cifar10 import DatasetError, locate


def draw_rates(outcomes: Sequence[Outcome], stated: float) -> bytes:
    """PNG: harmless releases on the left, rolled back ones by window on the right."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(14, 5)
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
        harmless = [one for one in outcomes if one.harmless]
        rates = np.array([one.rate for one in harmless])
        ends = np.array([one.interval for one in harmless])
        spread = np.abs(ends.T - rates) * 100
        left.errorbar(100 * rates, range(len(rates)), xerr=spread, fmt="o", color=BLUE, capsize=4)
        left.axvline(100 * stated, color=RED, linestyle="--")
        left.annotate(" stated bound", (100 * stated, len(rates) - 0.55), color=RED)
        left.set_yticks(range(len(rates)), [one.scenario for one in harmless])
        left.set_ylim(-0.5, len(rates) - 0.4)
        left.set_xlim(0, 135 * stated)
        left.set_xlabel("rolled back, % of releases (95 % interval)")
        left.set_title("Harmless releases")
        harmful = [one for one in outcomes if not one.harmless]
        colours = matplotlib.colormaps["turbo"](np.linspace(0, 1, len(harmful)))
        for place, one in enumerate(harmful):
            share = 100 * np.cumsum(one.by_window) / one.releases
            windows = np.arange(1, len(share) + 1)
            right.plot(windows, share, "o-", markersize=3, color=colours[place], label=one.scenario)
        right.set_xlabel("looks")
        right.set_ylabel("rolled back so far, % of releases")
        right.set_title("Harmful releases")
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return to_png(figure)


MODEL = Path(__file__).parents[2] / "ml" / "bundled" / "model.int8.onnx"


def main(arguments: Sequence[str], console: Console) -> int:
    """Predicts, simulates, judges, prints, writes; returns the exit code."""
    options = _options().parse_args(arguments)
    config = user_path(options.config) if options.config else None
    folder = user_path(options.out)
    try:
        settings = read_settings(options.env, config)
        plan = plan_of(settings)
        with Progress("answering the golden images", options.images, console=console) as progress:
            golden = _golden(options, progress)
            facts = _facts(options, settings, golden)
            outcomes = _resumed(folder, facts, options.releases) if options.resume else []
            for scenario in SCENARIOS[len(outcomes) :]:
                progress.begin(scenario.name, options.releases)
                outcomes.append(
                    simulate(
                        scenario,
                        golden,
                        options.releases,
                        profile_policy(scenario.profile, settings.verdict),
                        plan,
                        options.rate,
                        options.seed,
                        progress.advance,
                    )
                )
                _write(outcomes, facts, folder)
        stated = profile_policy("same model", settings.verdict).false_alarm_rate
        _show(outcomes, stated, len(plan.shares), console)
        write_whole(folder / "verdict.png", draw_rates(outcomes, stated))
        for path in (folder / "verdict.json", folder / "verdict.png"):
            console.print(str(path), highlight=False, soft_wrap=True)
    except (DatasetError, OSError, ReleaseError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    worst = max(outcome.interval[0] for outcome in outcomes if outcome.harmless)
    if worst > stated:
        console.print("More false roll backs than the policy allows", style="red")
        return 1
    return 0


def _golden(options: argparse.Namespace, progress: Progress) -> Golden:
    if options.made_up:
        return made_up(options.images, options.seed)
    records = locate() / "test.bin"
    return answer(MODEL, records, options.images, options.threads, progress.advance)


def _show(outcomes: Sequence[Outcome], stated: float, looks: int, console: Console) -> None:
    table = Table(title=f"Simulated releases, at most {looks} looks", title_justify="left")
    table.add_column("release")
    for name in (
        "releases",
        "rolled back, 95 % interval",
        "promoted",
        "candidate requests",
        "golden images",
    ):
        table.add_column(name, justify="right")
    table.add_column("by")
    for place, one in enumerate(outcomes):
        low, high = one.interval
        fired = [f"{k} {v / one.rolled_back:.0%}" for k, v in one.by_check.items() if v]
        table.add_row(
            one.scenario,
            f"{one.releases:,}",
            f"{one.rate:.2%} ({low:.2%} to {high:.2%})",
            f"{one.promoted / one.releases:.2%}",
            f"{one.candidate_requests:,.0f}" if one.rolled_back else "",
            f"{one.golden_images:,.0f}" if one.rolled_back else "",
            ", ".join(fired),
            end_section=one.harmless and not outcomes[min(place + 1, len(outcomes) - 1)].harmless,
        )
    console.print(table)
    console.print(
        f"Guaranteed: harmless releases are rolled back in at most {stated:.2%}. "
        "Requests and images: median until the roll back, in whole windows.",
        highlight=False,
    )


def _facts(options: argparse.Namespace, settings: Settings, golden: Golden) -> dict[str, object]:
    """Everything that the outcomes depend on, except the code."""
    return {
        "settings": msgspec.to_builtins(settings),
        "requests_a_minute": options.rate,
        "seed": options.seed,
        "golden": {
            "images": len(golden.labels),
            "accuracy": float((golden.labels == golden.predictions).mean()),
        },
    }


def _write(outcomes: Sequence[Outcome], facts: dict[str, object], folder: Path) -> None:
    document = facts | {
        "outcomes": [asdict(one) | {"interval": one.interval} for one in outcomes],
    }
    text = json.dumps(document, indent=1).replace("Infinity", "null")
    write_whole(folder / "verdict.json", text + "\n")


def _resumed(folder: Path, facts: dict[str, object], releases: int) -> list[Outcome]:
    """Outcomes of an earlier run, in the order of `SCENARIOS`, as far as they are complete.

    Raises:
        ValueError: the earlier run had other settings.
    """
    path = folder / "verdict.json"
    if not path.exists():
        return []
    document = json.loads(path.read_bytes())
    rows = document.pop("outcomes")
    if document != json.loads(json.dumps(facts)) or {row["releases"] for row in rows} - {releases}:
        raise ValueError(f"{path} is of other settings than these: leave out --resume")
    names = [scenario.name for scenario in SCENARIOS]
    if [row["scenario"] for row in rows] != names[: len(rows)]:
        raise ValueError(f"{path} is of other kinds of releases: leave out --resume")
    return [_outcome(row) for row in rows]


def _outcome(row: dict[str, Any]) -> Outcome:
    numbers = ("candidate_requests", "golden_images")
    finite = {name: inf if row[name] is None else row[name] for name in numbers}
    return Outcome(**{name: value for name, value in row.items() if name != "interval"} | finite)


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//infra/release/verdict:simulate", __doc__)
    for name, default, said in (
        ("--releases", 10_000, "releases of each kind"),
        ("--rate", 2000, "requests per minute, both versions"),
        ("--images", 10_000, "golden images in all"),
        ("--threads", 1, "inference threads"),
    ):
        parser.add_argument(
            name, type=count, default=default, metavar="N", help=f"{said} (%(default)s)"
        )
    parser.add_argument("--made-up", action="store_true", help="synthetic golden predictions")
    parser.add_argument("--env", default="prod", help="environment of the settings (%(default)s)")
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file of settings in place of --env's"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="keep the kinds that --out holds already"
    )
    parser.add_argument("--out", default="verdict-simulation", help="folder (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(160)))
