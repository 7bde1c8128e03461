"""Coverage, at every look, of the interval of labelled accuracy, on simulated streams.

A stream is traffic with predicted probabilities; unsure predictions are captured more often, and of
these the unsure ones labelled more often. After each label, the interval is checked for the
accuracy of the traffic. Writes a table and JSON.

  bazel run //ml/live:labels                           # 1,000 streams of each kind, a minute
  bazel run //ml/live:labels -- --streams 100 --seed 7
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from common.betting import weighted_bound, weighted_log_odds
from common.command_line import command_parser, count
from common.files import user_path, write_whole
from common.terminal import Progress, terminal
from ml.live.estimate import LEVEL


@dataclass(frozen=True)
class Plan:
    """A plan of capture and labelling: a share of confident predictions, all of the most
    unsure.
    """

    name: str
    accuracy: float
    kept: float
    labelled: float
    answers: int


PLANS = (
    Plan("94 % right, a tenth kept, half labelled", 0.94, 0.1, 0.5, 20_000),
    Plan("94 % right, a tenth kept, a fifth labelled", 0.94, 0.1, 0.2, 20_000),
    Plan("70 % right, a tenth kept, half labelled", 0.7, 0.1, 0.5, 20_000),
    Plan("94 % right, everything labelled", 0.94, 1.0, 1.0, 3_000),
)


@dataclass(frozen=True)
class Outcome:
    """Results over the streams of one plan.

    Attributes:
        held: share of streams whose interval covered the truth after every label.
        naive: mean error of the unweighted accuracy on labels.
        error: mean |error| of the weighted accuracy at the end.
        width: mean width of the interval at the end.
    """

    plan: str
    streams: int
    labels: float
    held: float
    naive: float
    error: float
    width: float


def simulate(plan: Plan, streams: int, seed: int) -> Outcome:
    random = np.random.default_rng(seed)
    held, labels, naive, errors, widths = 0, [], [], [], []
    odds = 2 / (1 - LEVEL)
    for _ in range(streams):
        # Mostly confident, and calibrated whatever the mean.
        margin = random.beta(8 * plan.accuracy, 8 * (1 - plan.accuracy), plan.answers)
        right = (random.random(plan.answers) < (plan.accuracy + margin) / 2).astype(float)
        chance = _chance(margin, plan.kept) * _chance(margin, plan.labelled)
        truth = float(((plan.accuracy + margin) / 2).mean())
        seen = random.random(plan.answers) < chance
        weights, values = 1 / chance[seen], right[seen]
        most = 1 / (plan.kept * plan.labelled)
        centre = plan.accuracy
        above = weighted_log_odds(weights, values, centre, most, "above")
        below = weighted_log_odds(weights, values, centre, most, "below")
        held += max(above.max(), below.max()) < np.log(odds)
        labels.append(len(values))
        naive.append(values.mean() - truth)
        errors.append(abs((weights * values).sum() / weights.sum() - truth))
        ends = [weighted_bound(weights, values, most, odds, s) for s in ("below", "above")]
        widths.append(ends[1] - ends[0])
    means = (float(np.mean(one)) for one in (naive, errors, widths))
    return Outcome(plan.name, streams, float(np.mean(labels)), held / streams, *means)


def _chance(margin: np.ndarray, share: float) -> np.ndarray:
    """Like `common.captures.sampling_probability`, from the margin."""
    return share + (1 - share) * (1 - margin)


def main(arguments: Sequence[str], console: Console) -> int:
    options = _parser().parse_args(arguments)
    with Progress("simulating", len(PLANS), console=Console(stderr=True)) as progress:
        outcomes = []
        for plan in PLANS:
            outcomes.append(simulate(plan, options.streams, options.seed))
            progress.advance()
    table = Table(title="Intervals of labelled accuracy, at every look", title_justify="left")
    for name in ("traffic", "labels", "always held", "unweighted is off", "weighted", "width"):
        table.add_column(name, justify="left" if name == "traffic" else "right")
    for one in outcomes:
        points = (f"{100 * v:+.1f}" for v in (one.naive, one.error, one.width))
        table.add_row(one.plan, f"{one.labels:,.0f}", f"{one.held:.1%}", *points)
    console.print(table)
    path = user_path(options.out)
    write_whole(path, json.dumps([asdict(one) for one in outcomes], indent=2) + "\n")
    console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//ml/live:labels", __doc__)
    add = parser.add_argument
    add("--streams", type=count, default=1000, help="streams of each kind (%(default)s)")
    add("--seed", type=int, default=0)
    add("--out", default="live-labels.json", help="(%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
