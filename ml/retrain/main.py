"""Retrains the champion on labelled captures if it has become worse and there are enough labels,
and promotes the new model if it is better: bazel run //ml:retrain

  bazel run //ml:retrain -- --dry-run                # live quality, and how many labels are missing
  bazel run //ml:retrain                             # train, compare, promote in the registry
  bazel run //ml:retrain -- --deploy ./release.sh    # and run a command that releases the model
  bazel run //ml:retrain -- --always trainer.max_epochs=5    # overrides as for //ml:train

Each step is recorded in .kiln/retrain/<time>/record.json. After a kill, the same command continues
there.

Exit codes: 0 promoted (--no-promote: would be promoted; --dry-run: training is possible), 2 bad
input, 3 the champion is kept, 4 more labels are needed, 5 labels look wrong and should be checked,
6 promoted but not released, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import InstantiationException
from rich.console import Console

from common.command_line import share_or_none
from common.files import user_path, write_whole
from common.objects import StoreError
from common.terminal import terminal
from ml.data.checks import unwrapped
from ml.data.cifar10 import DatasetError
from ml.registry.ledger import RegistryError
from ml.retrain.steps import EXIT_CODES, open_record, print_record
from ml.training.config import ConfigError

BAD_INPUT, UNRELEASED, INTERRUPTED = 2, 6, 130


def main(arguments: Sequence[str], console: Console) -> int:
    options = _parser().parse_args(arguments)
    workspace = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or ".").absolute()
    root = workspace / ".kiln" / "retrain"
    settings = {
        name: value for name, value in vars(options).items() if name not in ("again", "card")
    }
    # Imported here, since they import PyTorch, which --help does not need.
    from ml.artifact.artifact import ArtifactError
    from ml.retrain.retraining import Retraining, to_page
    from ml.runs.folder import ResumeError

    record = open_record(root, settings, again=options.again)
    try:
        released = Retraining(record, options, workspace, console).carry_out()
    except KeyboardInterrupt:
        print(f"\nInterrupted. The same command goes on: {record.path}", file=sys.stderr)
        return INTERRUPTED
    except (
        ArtifactError,
        ConfigError,
        DatasetError,
        InstantiationException,
        RegistryError,
        ResumeError,
        StoreError,
    ) as exc:
        print(f"{unwrapped(exc)}\nThe champion is as it was.", file=sys.stderr)
        return BAD_INPUT
    if options.card:
        write_whole(user_path(options.card), to_page(record))
    print_record(record, console)
    assert record.decision is not None
    return EXIT_CODES[record.decision] if released else UNRELEASED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bazel run //ml:retrain --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="KEY=VALUE", help="as for //ml:train: the last word")
    add("--captures", metavar="URL", help="(default: KILN_CAPTURE, else .kiln/captures)")
    add("--registry", metavar="URL", help="(default: KILN_REGISTRY, else .kiln/registry)")
    add("--since", metavar="TIME", help="of answers captured from then on, ISO 8601 (all)")
    add(
        "--init-from",
        metavar="PATH",
        help="weights to start from: a file or a run folder; none for nothing (default: the "
        "champion's run, if it is below runs/)",
    )
    add(
        "--margin",
        type=share_or_none,
        default=0.003,
        help="accuracy on the original test set that may be lost (%(default)s)",
    )
    add(
        "--alpha",
        type=share_or_none,
        default=0.05,
        help="chance of a wrong answer of each test (%(default)s)",
    )
    add(
        "--shortfall",
        type=share_or_none,
        default=0.01,
        help="below the promised accuracy that calls for a new model (%(default)s)",
    )
    add("--min-labels", type=int, default=50, help="in the live test (%(default)s)")
    add(
        "--max-label-noise",
        type=share_or_none,
        default=0.15,
        help="share of labels that may look wrong; measured on CIFAR-10 under a corruption that "
        "cost 20 points: 0.115 of right labels, 0.278 with 20 %% flipped (%(default)s)",
    )
    add(
        "--max-calibration-error",
        type=share_or_none,
        default=0.05,
        help="on the original test set; few images have a large one by chance (%(default)s)",
    )
    add("--p99-ms", type=float, default=25.0, help="latency of one image (%(default)s)")
    add("--always", action="store_true", help="train even without need and with few labels")
    add("--dry-run", action="store_true", help="stop before the training")
    add("--no-promote", action="store_true", help="register and judge, but leave the champion")
    add(
        "--deploy",
        metavar="COMMAND",
        help="after a promotion run this in a shell, in the workspace: KILN_MODEL is the new "
        "model's file, KILN_MODEL_VERSION its version; it builds the image and ends with "
        "./tools/bazel run //infra:deploy -- …, whose exit codes count",
    )
    add("--card", metavar="FILE", help="write the steps and the new model's card as Markdown")
    add("--again", action="store_true", help="begin anew instead of going on with one that stopped")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
