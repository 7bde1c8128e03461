"""k-fold cross-validation of a configuration: ``bazel run //ml:cross_validate``.

Each fold is an ordinary run of `ml.stages` with the fold as validation images; the test images are
never read.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from common.command_line import command_parser
from common.files import write_whole
from common.terminal import Progress, terminal
from ml.data.checks import unwrapped
from ml.data.cifar10 import DatasetError
from ml.runs.folder import ResumeError, RunFolder, best_row, config_digest, open_run, read_rows
from ml.training.config import CONFIGS, ConfigError, check_values, is_fast_dev_run
from ml.training.launch import (
    BAD_INPUT,
    Job,
    explained,
    interrupted,
    is_started_by_torchrun,
    run_application,
)

_MOST = 20
# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom.
_STUDENT = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930),
)
_UNBOUNDED = (-math.inf, math.inf)
_BOUNDS = {
    "val/accuracy": (0.0, 1.0),
    "val/macro_f1": (0.0, 1.0),
    "val/loss": (0.0, math.inf),
}
_HELP = """\
examples:
  bazel run //ml:cross_validate                              five folds of the default configuration
  bazel run //ml:cross_validate -- --folds 10 experiment=smoke optimizer=sgd
  bazel run //ml:cross_validate -- --config-dir $PWD/mine/configs data=shapes

Overrides are those of //ml:train. The training part is dealt out to the folds, equally many images
of each class; each is validated on once by a training on the others. The test part is never read,
so that it stays unseen by whoever chooses a configuration by this. budget does not count here, as
in sweeps: name a preset, or set the values.

The same command again continues after Ctrl-C or a kill: finished folds are kept, and the
interrupted one continues from its last epoch. Another value is another folder.
Folder: multirun/<name>_<k>fold_<digest>/ with folds/, each of them a run, cross_validation.json,
cross_validation.png and .svg. bazel run //ml:runs -- <folder> --html page.html shows the curves.

Exit codes: 0 done, 1 a crash, 2 bad input, 4 a loss that is no number, 5 files that cannot be
written, 130 interrupted.
"""


@dataclass(frozen=True)
class Score:
    """A metric over all folds: its values in order, their mean, and a 95 % interval of the mean."""

    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    deviation: float


def score(values: Sequence[float], bounds: tuple[float, float] = _UNBOUNDED) -> Score:
    """Mean and interval of one value per fold.

    The interval ends at the metric's bounds, which costs it no coverage: no mean lies beyond them.
    Source: Newcombe 1998, "Two-sided confidence intervals for the single proportion", Statistics in
    Medicine 17, on overshoot.

    Training sets of folds overlap, so their values vary less than those of independent runs, and
    Student's interval alone would be too narrow: the variance is enlarged by the ratio of
    validation to training images, 1/(k-1). Source: Nadeau and Bengio 2003, "Inference for the
    Generalization Error", Machine Learning 52, as used for k folds by Bouckaert and Frank 2004.
    """
    k, middle, deviation = len(values), mean(values), stdev(values)
    half = _STUDENT[k - 2] * deviation * math.sqrt(1 / k + 1 / (k - 1))
    low, high = max(bounds[0], middle - half), min(bounds[1], middle + half)
    return Score(tuple(values), middle, low, high, deviation)


def scores(cfg: DictConfig, runs: Sequence[RunFolder]) -> dict[str, dict[str, Score]]:
    """By ``last`` and ``best`` epoch, by metric. The last is that of a fixed-length training; the
    best is selected on the fold that measures it, and is optimistically biased.
    """
    rows = [read_rows(run.metrics) for run in runs]
    chosen = {"last": [one[-1] for one in rows], "best": [best_row(one, cfg) for one in rows]}
    names = [name for name in chosen["last"][0] if name.startswith("val/")]
    return {
        which: {
            name: score([row[name] for row in found], _BOUNDS.get(name, _UNBOUNDED))
            for name in names
        }
        for which, found in chosen.items()
    }


def folder_of(cfg: DictConfig, folds: int) -> Path:
    name = f"{cfg.name}_{folds}fold_{config_digest(cfg)[:8]}"
    return Path(cfg.paths.runs).parent / "multirun" / name


def cross_validate(cfg: DictConfig, folds: int, console: Console) -> Path:
    """Trains the missing folds and writes the results; returns the folder.

    Raises:
        ConfigError, InstantiationException, DatasetError, ResumeError: nothing was started.
    """
    with Progress("loading PyTorch"):  # which --help does not need
        from ml import stages
        from ml.training import fitting  # noqa: F401

    folder = folder_of(cfg, folds)
    console.print(f"Cross-validation: {folder}", highlight=False, soft_wrap=True)
    runs = [RunFolder(folder / "folds" / str(fold + 1)) for fold in range(folds)]
    for fold, run in enumerate(runs):
        if run.is_finished:
            console.print(f"Fold {fold + 1} of {folds} is finished already", highlight=False)
        else:
            console.print(f"\n[bold]Fold {fold + 1} of {folds}[/]", highlight=False)
            open_run(run.path, _configuration(cfg, fold, folds))
            again = explained(run, "the same command")  # it refuses resume=
            with run.lock(), run.discarded_unless_begun(), again:
                stages.train(run.load_config(), run, console)
        done = [best_row(read_rows(one.metrics), cfg)[cfg.monitor] for one in runs[: fold + 1]]
        console.print(
            f"Fold {fold + 1} of {folds}: best {cfg.monitor} {done[-1]:.4f}, "
            f"mean so far {mean(done):.4f}",
            highlight=False,
        )
    write_results(cfg, runs, folder)
    return folder


def _configuration(cfg: DictConfig, fold: int, folds: int) -> DictConfig:
    cfg = cfg.copy()
    OmegaConf.update(cfg, "fold", [fold, folds], force_add=True)
    OmegaConf.update(cfg, "conclude", False, force_add=True)
    return cfg


def write_results(cfg: DictConfig, runs: Sequence[RunFolder], folder: Path) -> None:
    """``cross_validation.json`` and its plot."""
    from common.figures import to_png, to_svg

    found = scores(cfg, runs)
    known = {which: {key: asdict(one) for key, one in of.items()} for which, of in found.items()}
    facts = {
        "folds": len(runs),
        "monitor": cfg.monitor,
        "interval": "95 %, Student's t with the variance of Nadeau and Bengio 2003",
        "runs": [str(run.path.relative_to(folder)) for run in runs],
        "config_digest": config_digest(cfg),
        **known,
    }
    write_whole(folder / "cross_validation.json", json.dumps(facts, indent=2) + "\n")
    figure = draw([read_rows(run.metrics) for run in runs], cfg.monitor, found["last"])
    write_whole(folder / "cross_validation.png", to_png(figure))
    write_whole(folder / "cross_validation.svg", to_svg(figure))


def draw(
    rows: Sequence[Sequence[Mapping[str, float]]], monitor: str, last: Mapping[str, Score]
) -> Any:
    """The curve of each fold, and their last values with mean and interval."""
    import matplotlib

    from common.figures import BLUE, ORANGE, STYLE, new_figure, whole_ticks

    figure = new_figure(9.2, 3.2)
    with matplotlib.rc_context(STYLE):
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1), sharey=True)
        for one in rows:
            points = [(row["epoch"], row[monitor]) for row in one]
            marker = "o" if len(points) < 2 else ""
            left.plot(*zip(*points, strict=True), color=BLUE, alpha=0.5, marker=marker)
        left.set(title=f"{monitor} of each fold", xlabel="epoch")
        whole_ticks(left.xaxis)
        found = last[monitor]
        places = range(1, len(found.values) + 1)
        right.axhspan(found.low, found.high, color=ORANGE, alpha=0.18, linewidth=0)
        right.axhline(found.mean, color=ORANGE)
        right.plot(places, found.values, "o", color=BLUE)
        right.set(title="Last epoch, mean and 95 % interval", xlabel="fold")
        whole_ticks(right.xaxis)
    return figure


def print_results(folder: Path, console: Console) -> None:
    """Prints a table with one row per metric."""
    facts = json.loads((folder / "cross_validation.json").read_text(encoding="utf-8"))
    table = Table(box=None, header_style="bold", pad_edge=False)
    heads = ("metric", "epoch", "mean", "95 % interval", "deviation", "each fold")
    for name in heads:
        justify = "left" if name in ("metric", "epoch", "each fold") else "right"
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for which in ("last", "best"):
        for name, one in facts[which].items():
            each = "  ".join(f"{value:.4f}" for value in one["values"])
            interval = f"{one['low']:.4f} – {one['high']:.4f}"
            middle, spread = f"{one['mean']:.4f}", f"{one['deviation']:.4f}"
            table.add_row(name, which, middle, interval, spread, each)
    console.print()
    console.print(table)
    console.print(
        "The best epoch is selected on the fold that measures it, and is optimistically biased.\n"
        f"  {folder / 'cross_validation.json'}\n  {folder / 'cross_validation.png'}",
        highlight=False,
        soft_wrap=True,
    )


class _Folds:
    count = 5


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> None:
    """Hydra's entry."""
    Job.has_begun = True
    console = terminal(140)
    try:
        check_values(cfg)
        _check(cfg)
        folder = cross_validate(cfg, _Folds.count, console)
    except (ConfigError, ResumeError, DatasetError, InstantiationException, OSError) as exc:
        _refuse(exc)
    except KeyboardInterrupt:  # between two folds
        interrupted("the same command")
    print_results(folder, console)


def _refuse(exc: Exception) -> NoReturn:
    cause = unwrapped(exc)
    print(f"{type(cause).__name__}: {cause}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def _check(cfg: DictConfig) -> None:
    """Rejects settings that make no sense for several runs.

    Raises:
        ConfigError: names the setting.
    """
    if is_started_by_torchrun():
        raise ConfigError("torchrun starts one training: use trainer=ddp, which starts its own")
    given = HydraConfig.get().overrides.task
    for key in ("resume", "rerun", "fold", "conclude"):
        if any(text.lstrip("+").startswith(f"{key}=") for text in given):
            raise ConfigError(f"{key} is for single runs: here the same command continues")
    if is_fast_dev_run(cfg):
        raise ConfigError("trainer.fast_dev_run keeps no results to compare")


def _fold_count(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 2 to {_MOST}, got {text}")
    return int(text)


def run_entry(arguments: Sequence[str]) -> None:
    """Leaves overrides to Hydra; exit codes as for //ml:train."""
    parser = command_parser(
        "//ml:cross_validate", "k-fold cross-validation of a configuration.", _HELP
    )
    parser.allow_abbrev = False
    # No positional arguments: --config-dir would lose its folder to them.
    parser.usage = "%(prog)s [-h] [--folds K] [key=value ...]"
    parser.add_argument("--folds", type=_fold_count, default=5, metavar="K", help="default: 5")
    options, rest = parser.parse_known_args(arguments)
    _Folds.count = options.folds
    sys.argv[1:] = rest
    run_application(main, _refuse)


if __name__ == "__main__":
    run_entry(sys.argv[1:])
