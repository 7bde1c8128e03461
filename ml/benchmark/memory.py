"""Peak memory of the work that grows with the size of images and the number of classes.

Each row is a separate process: its peak beyond its images and imports. None of it may grow with the
images' size or with the square of the number of classes.

  bazel run //ml:memory_benchmark
  bazel run //ml:memory_benchmark -- --edges 32 224 --classes 10 1000 --json memory.json
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from common.command_line import command_parser, count
from common.files import user_path, write_whole
from common.programs import python_environment
from common.terminal import Progress, terminal

_IMAGES, _IMAGE_BYTES = 2000, 150 << 20  # of the dataset, whichever is less
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """Peak memory of one task.

    Attributes:
        work: one of `WORK`.
        edge: edge length of the square images in pixels.
        images_mb: the images themselves, allocated before.
        peak_mb: peak beyond them.
    """

    work: str
    edge: int
    classes: int
    images_mb: float
    peak_mb: float


def main(arguments: Sequence[str], console: Console) -> int:
    parser = command_parser("//ml:memory_benchmark", __doc__)
    add = parser.add_argument
    add("--edges", nargs="+", type=count, default=[32, 96, 224])
    add("--classes", nargs="+", type=count, default=[10, 100, 1000])
    add("--json", help="file to write the figures to")
    # Measure one row in this process.
    add("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        work, edge, classes = options.measure
        print(json.dumps(asdict(measure(work, int(edge), int(classes)))))
        return 0
    wanted = [(work, edge, min(options.classes)) for work in _BY_EDGE for edge in options.edges]
    wanted += [(work, min(options.edges), k) for work in _BY_CLASSES for k in options.classes]
    rows = list[Row]()
    with Progress("measuring", len(wanted), console=console) as progress:
        for work, edge, classes in wanted:
            progress.update(len(rows), detail=f"{work}, {edge} pixels, {classes} classes")
            rows.append(_in_own_process(work, edge, classes))
    console.print(_table(rows))
    if options.json:
        figures = {"rows": [asdict(row) for row in rows]}
        write_whole(user_path(options.json), json.dumps(figures, indent=2) + "\n")
    return 0


def measure(work: str, edge: int, classes: int) -> Row:
    images = min(_IMAGES, _IMAGE_BYTES // (3 * edge * edge))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (images, 3, edge, edge), dtype=np.uint8)
    prepared = WORK[work](pixels, np.arange(images) % classes, classes)
    before = _forget_peak()
    prepared()
    return Row(work, edge, classes, pixels.nbytes / _MEGABYTE, max(0.0, _peak_mb() - before))


Work = Callable[[NDArray[Any], NDArray[Any], int], Callable[[], object]]


def _whitening(pixels: NDArray[Any], labels: NDArray[Any], classes: int) -> Callable[[], object]:
    import torch

    from ml.data.datamodule import Images
    from ml.training.fitting import initialise
    from ml.training.networks import ResNet

    images = Images(torch.from_numpy(pixels), torch.from_numpy(labels), (0.5,), (0.3,))
    network = ResNet(classes, widths=(8, 8, 8))
    return lambda: initialise(network, images)


def _validation(pixels: NDArray[Any], labels: NDArray[Any], classes: int) -> Callable[[], object]:
    import torch

    from ml.artifact.weights import calibrate
    from ml.data.datamodule import Images
    from ml.training.networks import ResNet

    images = Images(torch.from_numpy(pixels), torch.from_numpy(labels), (0.5,), (0.3,))
    network = ResNet(classes, widths=(8, 8, 8)).eval()
    return lambda: calibrate(network, images)


def _test(pixels: NDArray[Any], labels: NDArray[Any], classes: int) -> Callable[[], object]:
    from ml.artifact.evaluation import torch_probabilities
    from ml.training.networks import ResNet

    images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    network = ResNet(classes, widths=(8, 8, 8))
    return lambda: torch_probabilities(network, images, (0.5,), (0.3,))


def _drift(pixels: NDArray[Any], labels: NDArray[Any], classes: int) -> Callable[[], object]:
    from ml.artifact.artifact import drift_reference

    images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    return lambda: drift_reference(images, _answers(labels, classes))


def _plots(pixels: NDArray[Any], labels: NDArray[Any], classes: int) -> Callable[[], object]:
    from ml.artifact.evaluation import evaluate
    from ml.report.page import Run, render, write_plots

    images, answers = pixels.transpose(0, 2, 3, 1), _answers(labels, classes)
    names = [f"class {number}" for number in range(classes)]
    row = {"epoch": 1, "train/loss": 1.0, "val/loss": 1.0, "val/accuracy": 0.5}
    run = Run(
        name="memory",
        evaluation=evaluate(answers, labels, names),
        rows=[row],
        images=images,
        labels=labels,
        probabilities=answers,
        parameters=1,
        size_bytes=1,
        training_s=1.0,
        config="",
        provenance={},
    )

    def draw() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_plots(run, Path(folder))
        render(run)

    return draw


def _interval(pixels: NDArray[Any], labels: NDArray[Any], classes: int) -> Callable[[], object]:
    from ml.artifact.evaluation import evaluate, macro_f1_interval

    names = [f"class {number}" for number in range(classes)]
    evaluation = evaluate(_answers(labels, classes), labels, names)
    return lambda: macro_f1_interval(evaluation)


_BY_EDGE: dict[str, Work] = {
    "whitening": _whitening,
    "validation": _validation,
    "test": _test,
    "drift reference": _drift,
}
_BY_CLASSES: dict[str, Work] = {"plots and page": _plots, "interval of the F1": _interval}
WORK = _BY_EDGE | _BY_CLASSES


def _answers(labels: NDArray[Any], classes: int) -> NDArray[Any]:
    """(N, K) probabilities, half of them wrong."""
    guesses = (labels + np.arange(len(labels)) % 2) % classes
    return np.asarray(np.eye(classes, dtype=np.float32)[guesses])


def _forget_peak() -> float:
    """Resets the kernel's peak; returns the current memory."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found, "only Linux reports the peak of a process"
    return int(found[1]) * 1024 / _MEGABYTE


def _in_own_process(work: str, edge: int, classes: int) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "ml.benchmark.memory", "--measure", work, str(edge), str(classes)],
        env=python_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="Peak memory beyond the images")
    table.add_column("work")
    for name in ("pixels", "classes", "images", "peak"):
        table.add_column(name, justify="right")
    for row in rows:
        sizes = (f"{row.images_mb:,.0f} MB", f"{row.peak_mb:,.0f} MB")
        table.add_row(row.work, str(row.edge), str(row.classes), *sizes)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
