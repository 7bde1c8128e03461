"""Measures the verdict engine on simulated releases: false rollbacks, power and delay.

Every release has 12 windows, in which the candidate gets 5, 10, 25 and 50 % of the traffic, three
windows each, and is judged after each of them. Golden images are what the bundled model really
answers on the CIFAR-10 test images. Writes a table, JSON and a plot.

  bazel run //infra/release/verdict:simulate    # 10,000 harmless releases of each kind
  bazel run //infra/release/verdict:simulate -- --releases 500 --harmful 100    # a quick look
  bazel run //infra/release/verdict:simulate -- --policy policy.toml            # with your limits
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
from msgspec import structs
from rich.console import Console
from rich.table import Table

from benchmarks.verdict.rates import Outcome, simulate
from benchmarks.verdict.releases import SCENARIOS, Golden, Size, answer, made_up
from common.figures import BLUE, RED, STYLE, new_figure, to_png
from common.files import user_path, write_whole
from common.terminal import Progress, terminal
from infra.release.verdict.policy import DEFAULT_POLICY, Policy, PolicyError, parse_policy
from ml.data.cifar10 import DatasetError, locate


def draw_rates(outcomes: Sequence[Outcome], policy: Policy) -> bytes:
    """PNG: harmless releases on the left, rolled back ones by window on the right."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(13, 4.6)
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
        harmless = [one for one in outcomes if one.harmless]
        rates = np.array([one.rate for one in harmless])
        ends = np.array([one.interval for one in harmless])
        spread = np.abs(ends.T - rates) * 100
        left.errorbar(100 * rates, range(len(rates)), xerr=spread, fmt="o", color=BLUE, capsize=4)
        left.axvline(100 * policy.false_alarm_rate, color=RED, linestyle="--")
        left.annotate(
            " stated bound", (100 * policy.false_alarm_rate, len(rates) - 0.55), color=RED
        )
        left.set_yticks(range(len(rates)), [one.scenario for one in harmless])
        left.set_ylim(-0.5, len(rates) - 0.4)
        left.set_xlim(0, 135 * policy.false_alarm_rate)
        left.set_xlabel("rolled back, % of releases (95 % interval)")
        left.set_title("Harmless releases that were rolled back")
        colours = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
        harmful = [one for one in outcomes if not one.harmless]
        for place, one in enumerate(harmful):
            share = 100 * np.cumsum(one.by_window) / one.releases
            windows = np.arange(1, len(share) + 1)
            right.plot(windows, share, "o-", markersize=3, color=colours[place], label=one.scenario)
        right.set_xlabel("looks")
        right.set_ylabel("rolled back so far, % of releases")
        right.set_title("Harmful releases")
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return to_png(figure)


MODEL = Path(__file__).parents[2] / "ml" / "bundled" / "model.onnx"


def main(arguments: Sequence[str], console: Console) -> int:
    """Answer, draw, judge, print, write; returns the exit code."""
    options = _options().parse_args(arguments)
    size = Size(options.requests, options.golden)
    try:
        policy = _policy(options.policy)
        with Progress("answering the golden images", options.images, console=console) as progress:
            golden = _golden(options, progress)
            outcomes = []
            for scenario in SCENARIOS:
                count = options.releases if scenario.harmless else options.harmful
                progress.begin(scenario.name, count)
                outcomes.append(
                    simulate(
                        scenario,
                        golden,
                        count,
                        policy,
                        size,
                        options.seed,
                        progress.advance,
                    )
                )
        _show(outcomes, policy, console)
        facts = {"policy": structs.asdict(policy), "size": asdict(size), "seed": options.seed}
        facts["golden"] = {
            "images": len(golden.labels),
            "accuracy": float((golden.labels == golden.predictions).mean()),
        }
        for path in _write(outcomes, facts, policy, user_path(options.out)):
            console.print(str(path), highlight=False, soft_wrap=True)
    except (DatasetError, OSError, PolicyError, ValueError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    worst = max(outcome.interval[0] for outcome in outcomes if outcome.harmless)
    if worst > policy.false_alarm_rate:
        console.print("More false roll backs than the policy allows", style="red")
        return 1
    return 0


def _golden(options: argparse.Namespace, progress: Progress) -> Golden:
    if options.made_up:
        return made_up(options.images, options.seed)
    records = locate() / "test.bin"
    return answer(MODEL, records, options.images, options.threads, progress.advance)


def _policy(name: str | None) -> Policy:
    return parse_policy(user_path(name).read_text("utf-8")) if name else DEFAULT_POLICY


def _show(outcomes: Sequence[Outcome], policy: Policy, console: Console) -> None:
    table = Table(title="Simulated releases, 12 looks each", title_justify="left")
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
            f"{one.promoted / one.releases:.1%}",
            f"{one.candidate_requests:,.0f}" if one.rolled_back else "",
            f"{one.golden_images:,.0f}" if one.rolled_back else "",
            ", ".join(fired),
            end_section=one.harmless and not outcomes[min(place + 1, len(outcomes) - 1)].harmless,
        )
    console.print(table)
    console.print(
        f"Stated: harmless releases are rolled back in at most {policy.false_alarm_rate:.2%}. "
        "Requests and images: median until the roll back, in whole windows.",
        highlight=False,
    )


def _write(
    outcomes: Sequence[Outcome], facts: dict[str, object], policy: Policy, folder: Path
) -> list[Path]:
    document = facts | {
        "outcomes": [asdict(one) | {"interval": one.interval} for one in outcomes],
    }
    text = json.dumps(document, indent=1).replace("Infinity", "null")
    write_whole(folder / "verdict.json", text + "\n")
    write_whole(folder / "verdict.png", draw_rates(outcomes, policy))
    return [folder / "verdict.json", folder / "verdict.png"]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return int(text)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, said in (
        ("--releases", 10_000, "of each harmless kind"),
        ("--harmful", 1000, "releases of each harmful kind"),
        ("--requests", 4000, "in a window, both versions"),
        ("--golden", 800, "golden images in a window"),
        ("--images", 10_000, "golden images in all"),
        ("--threads", 1, "of the model"),
    ):
        parser.add_argument(
            name, type=_count, default=default, metavar="N", help=f"{said} (%(default)s)"
        )
    parser.add_argument("--made-up", action="store_true", help="golden answers of no real model")
    parser.add_argument("--policy", metavar="FILE", help="TOML file (default: built-in limits)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="verdict-simulation", help="folder (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(160)))
