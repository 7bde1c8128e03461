"""Inspects a dataset: counts, samples, sizes, duplicates, damaged files, on one page.

  bazel run //ml:data -- inspect                        # CIFAR-10
  bazel run //ml:data -- inspect photos/                # a folder of images, as data=folder
  bazel run //ml:data -- inspect data=folder data.folder=photos/ data.image_size=128

Exit codes: 0 written, 2 the dataset cannot be used.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import InstantiationException
from rich.console import Console

from common.command_line import command_parser
from common.files import user_path
from common.terminal import Progress, terminal
from ml.data.checks import unwrapped
from ml.data.cifar10 import DatasetError
from ml.training.config import ConfigError, composed

BAD_INPUT = 2


def overrides(given: Sequence[str], config_dir: str | None = None) -> list[str]:
    """The arguments as overrides for //ml:train, if they are not overrides already."""
    found = [f"hydra.searchpath=[file://{user_path(config_dir).absolute()}]"] if config_dir else []
    for text in given:
        # Quoted: a path may contain characters of Hydra's grammar.
        path = str(user_path(text).absolute()).replace("'", "\\'")
        found += [text] if "=" in text else ["data=folder", f"data.folder='{path}'"]
    return found


def main(arguments: Sequence[str], console: Console) -> int:
    """Entry point of the command."""
    options = _options().parse_args(arguments)
    try:
        if len(paths := [text for text in options.dataset if "=" not in text]) > 1:
            raise ConfigError(f"expected one dataset, got {', '.join(paths)}")
        cfg = composed(overrides(options.dataset, options.config_dir))
        if "on_damaged" in cfg.data:
            cfg.data.on_damaged = "skip"  # the report lists them, so they must not abort it
        with Progress("loading PyTorch", console=console):  # which --help does not need
            from ml.data import datamodule  # noqa: F401
            from ml.data.checks import open_data
            from ml.report.dataset import inspect, write_page

        data = open_data(cfg)
        name = Path(getattr(data, "folder", "")).name if "folder" in cfg.data else ""
        name = type(data).__name__ if not cfg.data.get("folder") else name
        with Progress("looking at the images", 1.0, console=console) as progress:
            found = inspect(data, name, progress.update)
        written = write_page(found, user_path(options.out))
    except (ConfigError, DatasetError, InstantiationException, OSError) as exc:
        text = str(unwrapped(exc))
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    counts = {part: int(measured.counts.sum()) for part, measured in found.parts.items()}
    console.print(
        f"{name}: {counts['train']:,} training and {counts['test']:,} test images of "
        f"{len(found.classes):,} classes, digest {found.digest[:12]}",
        highlight=False,
    )
    for note in found.notes():
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)
    for path in written:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:data", __doc__)
    commands = parser.add_subparsers(required=True, metavar="inspect")
    command = commands.add_parser("inspect", help="write a page about a dataset")
    command.add_argument(
        "dataset", nargs="*", help="a folder, a table, or values as for //ml:train"
    )
    command.add_argument("--config-dir", metavar="DIR", help="your own groups, as for //ml:train")
    command.add_argument(
        "--out", default="dataset.html", metavar="FILE", help="default: %(default)s"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
