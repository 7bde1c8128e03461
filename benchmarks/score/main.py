"""Batch scoring compared with a hand-written loop, and with the model alone.

    bazel run //serve:score_benchmark                            # generated PNGs and photos
    bazel run //serve:score_benchmark -- photos/ --json score.json

By hand: as many threads as `//serve:score` uses; each reads and decodes 16 files with the same
decoder and runs onnxruntime on them, and nothing is written. Model alone: the same runs on decoded
pixels. Interleaved on the same files; medians are shown.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from benchmarks.images.main import write_photos
from common.command_line import command_parser
from common.files import user_path, write_whole
from common.images import Codec
from common.model.artifact import INPUT, PROBABILITIES
from common.resources import available_cpus
from common.terminal import Progress, terminal
from serve.inference.model_path import model_path
from serve.score.listing import list_files
from serve.score.results import Parts
from serve.score.scorer import Model, Scorer
from serve.settings import Settings

_RUN = 16  # images per model run
_BATCH = 64  # the default of --batch-size


class Subject:
    """A model, and files to score on some threads."""

    def __init__(self, model: Model, paths: Sequence[str], threads: int) -> None:
        self._paths, self._threads = paths, threads
        self._folder = Path(model.folder)
        self._scorer = Scorer(model, threads)
        metadata = self._scorer.metadata
        self._codec = Codec(metadata.input_size, model.settings.max_pixels, metadata.resize)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model.artifact, options)
        self._chunks = [paths[start : start + _RUN] for start in range(0, len(paths), _RUN)]
        self._pixels = [self._decoded(chunk) for chunk in self._chunks]

    def score(self) -> None:
        """The complete command after listing files."""
        with tempfile.TemporaryDirectory() as folder, Parts(Path(folder, "o.parquet")) as parts:
            for position, table in self._scorer.score(self._paths, [(0, len(self._paths))], _BATCH):
                parts.add(position, table)
            parts.flush()
            parts.merge({"classes": self._scorer.metadata.classes}, lambda _: None)

    def by_hand(self) -> None:
        """Decodes and predicts, without rows, digests and files."""
        self._in_threads(lambda chunk: self._run(self._decoded(chunk)), self._chunks)

    def model_alone(self) -> None:
        self._in_threads(self._run, self._pixels)

    def _in_threads(self, work: Callable[[Any], Any], items: Sequence[Any]) -> None:
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(work, items):
                pass

    def _decoded(self, paths: Sequence[str]) -> NDArray[np.uint8]:
        return np.stack([self._codec.decode((self._folder / path).read_bytes()) for path in paths])

    def _run(self, pixels: NDArray[np.uint8]) -> Any:
        return self._session.run([PROBABILITIES], {INPUT: pixels})


def measure(subject: Subject, images: int, rounds: int, progress: Progress) -> dict[str, float]:
    """Images per second of each way, and scoring relative to the others."""
    ways = {"score": subject.score, "by_hand": subject.by_hand, "model_alone": subject.model_alone}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
            progress.advance()
    found = {name: images / statistics.median(taken) for name, taken in seconds.items()}
    return found | {
        "of_by_hand": found["score"] / found["by_hand"],
        "of_model_alone": found["score"] / found["model_alone"],
    }


def make_files(folder: Path, images: int) -> list[Path]:
    """A folder of PNGs of 32 × 32, and one of JPEGs of 640 × 480."""
    photos = write_photos(folder / "photos", images, 640, 480)
    (folder / "small").mkdir()
    for number, path in enumerate(photos):
        with Image.open(path) as photo:
            left = number % 600
            photo.crop((left, 0, left + 32, 32)).save(folder / "small" / f"{number:06}.png")
    return [folder / "small", folder / "photos"]


def main() -> int:
    options = _options()
    settings = Settings.from_environment()
    path = user_path(options.model or model_path(settings, lambda paths, _: paths[0]))
    model = Model(path.read_bytes(), settings, 3, str(user_path(".").absolute()))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, Progress("making files") as progress:
        folders = options.folders or map(str, make_files(Path(scratch), options.images))
        for folder in folders:
            progress.begin("decoding all files once")
            paths = list_files([folder], sys.stdin, limit=options.images).paths
            subject = Subject(model, paths, options.workers)
            progress.begin(f"measuring {Path(folder).name}", 3 * options.rounds)
            found = measure(subject, len(paths), options.rounds, progress)
            results[Path(folder).name] = {"images": len(paths), **found}
    show(results)
    if options.json:
        machine = {"threads": options.workers, "load": os.getloadavg()[0]}
        document = {"model": path.name, "machine": machine, "results": results}
        write_whole(user_path(options.json), json.dumps(document, indent=2) + "\n")
    return 0


def show(results: dict[str, Any]) -> None:
    """A row per folder."""
    table = Table(title="Images per second")
    table.add_column("files")
    for title in ("score", "by hand", "model alone", "score / by hand", "score / model alone"):
        table.add_column(title, justify="right")
    for name, found in results.items():
        table.add_row(
            f"{found['images']:,} {name}",
            *(f"{found[way]:,.0f}" for way in ("score", "by_hand", "model_alone")),
            *(f"{found[share]:.2f}" for share in ("of_by_hand", "of_model_alone")),
        )
    terminal().print(table)


def _options() -> argparse.Namespace:
    parser = command_parser("//serve:score_benchmark", __doc__)
    add = parser.add_argument
    add("folders", nargs="*", help="folder of images (default: two generated ones)")
    add("--model", type=Path, help="model (default: that of //serve:api)")
    add("--images", type=int, default=2000, help="images per folder (default: 2000)")
    add("--rounds", type=int, default=3, help="(default: 3)")
    add("--workers", type=int, default=available_cpus(), help="threads")
    add("--json", type=Path, help="JSON file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
