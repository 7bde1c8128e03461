"""Benchmarks a trained model: latency, throughput, size, and share of the machine's peak.

A run folder is measured as PyTorch (eager and compiled), ONNX, simplified ONNX and INT8; model
files as they are. Writes a table, JSON and a plot.

  bazel run //ml:benchmark                              # the bundled model, fp32 and INT8
  bazel run //ml:benchmark -- runs/<folder>             # into runs/<folder>/benchmark
  bazel run //ml:benchmark -- a.onnx b.onnx --quick     # under a minute
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from common.command_line import command_parser, count, positive
from common.figures import to_png, to_svg
from common.files import user_path, write_whole
from common.model.artifact import read_artifact
from common.terminal import Progress, terminal
from ml.artifact.artifact import ArtifactError
from ml.benchmark.contenders import Field, of_files, of_network
from ml.benchmark.results import benchmark_figure, print_table
from ml.benchmark.rounds import Benchmark, measure_rounds
from ml.data.cifar10 import DatasetError
from ml.runs.datasets import check_same
from ml.runs.loading import TrainedError, calibration_images, open_trained
from ml.runs.models import BUNDLED_MODELS

BATCHES = (1, 8, 32, 128)
_CORES = os.cpu_count() or 1


def main(arguments: Sequence[str], console: Console) -> int:
    options = _options().parse_args(arguments)
    quick = options.quick
    paths = [user_path(text) for text in options.models] or [*BUNDLED_MODELS]
    out = user_path(options.out) if options.out else _home(paths)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="kiln-benchmark-") as folder,
            Progress("preparing the models", console=console) as progress,
        ):

            def begin(step: str) -> None:
                console.print(f"[dim]{step}[/]", highlight=False)
                progress.begin(step)

            field = gather(paths, Path(folder), compiled=not quick)
            result = measure_rounds(
                *field,
                threads=options.threads or ([_CORES] if quick else sorted({1, _CORES})),
                batches=options.batches or ([1, 32] if quick else list(BATCHES)),
                seconds=options.seconds or (0.4 if quick else 1.0),
                rounds=options.rounds or (2 if quick else 3),
                progress=begin,
            )
    except (ArtifactError, DatasetError, TrainedError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    print_table(result, console)
    for path in write_results(result, out):
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def gather(paths: Sequence[Path], folder: Path, *, compiled: bool = True) -> Field:
    """Contenders of one run folder, or of model files.

    Args:
        folder: for files made from a run folder's network.
        compiled: whether to include torch.compile, which compiles for half a minute.

    Raises:
        ArtifactError, TrainedError: names the folder or file that cannot be used.
    """
    if len(paths) != 1 or paths[0].suffix == ".onnx":
        files = [path / "model.onnx" if path.is_dir() else path for path in paths]
        return of_files(files)
    (run,) = paths
    trained = open_trained(run)
    check_same(read_artifact((run / "model.onnx").read_bytes()), trained.data)
    images = calibration_images(trained.data)
    found, size, flops = of_network(trained.network, run / "model.onnx", images, folder)
    return Field([c for c in found if compiled or c.runtime != "compile"], size, flops)


def write_results(result: Benchmark, folder: Path) -> list[Path]:
    """`benchmark.json`, `.png` and `.svg`."""
    figure = benchmark_figure(result)
    files: dict[str, bytes | str] = {
        "benchmark.json": result.to_json(),
        "benchmark.png": to_png(figure),
        "benchmark.svg": to_svg(figure),
    }
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def _home(paths: Sequence[Path]) -> Path:
    """Beside a run's other results, or in the current folder."""
    is_run = len(paths) == 1 and paths[0].is_dir()
    return paths[0] / "benchmark" if is_run else user_path("benchmark-report")


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:benchmark", __doc__)
    add = parser.add_argument
    add("models", nargs="*", help="a run folder, or model files")
    add("--threads", type=count, nargs="+", help="numbers of threads (1 and one per core)")
    add("--batches", type=count, nargs="+", help=f"({BATCHES})")
    add("--seconds", type=positive, help="seconds per batch size (1)")
    add("--rounds", type=count, help="interleaved rounds, of which medians are reported (3)")
    add("--quick", action="store_true", help="fewer measurements, without torch.compile")
    add("--out", help="folder for results (in a run folder: benchmark)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(150)))
