"""The cost of image folders: packing compared with plain decoding, an epoch from disk compared with
one from memory, and memory for a training set ten times larger than the limit. An epoch is measured
twice: its batches alone, which nothing waits for in a training, and trained by the smallest preset.

  bazel run //ml:images_benchmark                              # 10,000 JPEGs of 640 × 480
  bazel run //ml:images_benchmark -- --images 1000 --out .

The photos are generated. All is measured in one run on the same files, after reading them once, so
that nothing waits for the disk. Writes images.json.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from common.command_line import command_parser
from common.files import user_path, write_whole
from common.images import MAX_PIXELS, Codec
from common.programs import python_environment
from common.terminal import Progress, terminal
from ml.data.packing import in_threads

_KINDS, _CLASSES = 64, 10  # distinct photos; the others differ in bytes after the image
_EPOCHS = 2
_SHARE_OF_MEMORY = 10  # size of the training set relative to the memory limit


def write_photos(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """JPEGs of quality 90 in a folder per class; no two are equal."""
    chance = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    files, encoded = [], []
    for kind in range(min(count, _KINDS)):
        waves = np.sin(rows / (3 + kind)) + np.cos(columns / (2 + kind / 2))
        pixels = 60 * waves[..., np.newaxis] + chance.normal(128, 6, (height, width, 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    for number in range(count):
        path = folder / f"class{number % _CLASSES}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded[number % len(encoded)] + number.to_bytes(4))
        files.append(path)
    return files


def decode_all(files: Sequence[Path], edge: int) -> float:
    """Seconds for plain decoding of all files, on as many threads as packing uses."""
    codec = Codec((edge, edge), MAX_PIXELS)
    chunks = [files[start : start + 16] for start in range(0, len(files), 16)]
    start = time.perf_counter()
    for _ in in_threads(lambda chunk: [codec.decode(f.read_bytes()) for f in chunk], chunks):
        pass
    return time.perf_counter() - start


def _data(folder: str, edge: int, memory_gib: float) -> Any:
    from ml.data.folder import ImageFolder

    return ImageFolder(
        folder=folder,
        image_size=edge,
        memory_gib=memory_gib,
        batch_size=128,
        validation_size=0.1,
        epochs=_EPOCHS,
        seed=0,
    )


def epochs(folder: str, edge: int, memory_gib: float) -> dict[str, Any]:
    """Batches per second by epoch, and memory beyond the libraries'."""
    from ml.data.datamodule import AugmentedImages

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = _data(folder, edge, memory_gib)
    speeds, epoch = [], 0
    batches = AugmentedImages(
        data.train_images(),
        batch_size=data.batch_size,
        augmentation=data.augmentation,
        classes=len(data.classes),
        sizes=data.sizes,
        seed=0,
        current_epoch=lambda: epoch,
    )
    for number in range(_EPOCHS):
        epoch = number
        start, seen = time.perf_counter(), 0
        for pixels, _ in batches:
            seen += len(pixels)
        speeds.append(seen / (time.perf_counter() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images_per_s": [round(speed) for speed in speeds],
        "memory_mib": (peak - before) >> 10,
        "trained_images_per_s": _trained(folder, edge, memory_gib),
    }


def _trained(folder: str, edge: int, memory_gib: float) -> list[int]:
    """Images per second of a real training, by epoch."""
    from ml.runs.folder import open_run, read_rows
    from ml.training.config import composed
    from ml.training.fitting import fit

    cfg = composed(
        [
            "preset=tiny",
            "data=folder",
            f"data.folder={folder}",
            f"data.image_size={edge}",
            "data.sizes=null",
            f"data.memory_gib={memory_gib}",
            "data.validation_size=0.1",
            f"trainer.max_epochs={_EPOCHS}",
        ]
    )
    with tempfile.TemporaryDirectory() as runs:
        run = open_run(Path(runs, "run"), cfg)
        fit(cfg, run, Console(quiet=True), recorded=False)
        return [round(row["images_per_s"]) for row in read_rows(run.metrics)]


def measure(photos: Path, count: int, width: int, height: int, edge: int) -> dict[str, Any]:
    """All figures; packed files go into the cache that KILN_CACHE names."""
    with Progress("writing photos"):
        files = write_photos(photos, count, width, height)
    with Progress("decoding"):
        decode_all(files, edge)  # once for the page cache
        cpu_s = time.process_time()
        bare_s = decode_all(files, edge)
        bare_cpu_s = time.process_time() - cpu_s
    from ml.data import folder  # noqa: F401 # PyTorch is loaded before the clock runs

    start, cpu_s = time.perf_counter(), time.process_time()
    data = _data(str(photos), edge, 2.0)
    pack_s, pack_cpu_s = time.perf_counter() - start, time.process_time() - cpu_s
    packed = data.packed.images("train").nbytes
    limit = packed / _SHARE_OF_MEMORY / 2**30
    return {
        "images": count,
        "size": f"{width} × {height}",
        "edge": edge,
        "load": os.getloadavg()[0],
        "bare_images_per_s": round(count / bare_s),
        "packing_images_per_s": round(count / pack_s),
        "packing_share": round(bare_s / pack_s, 3),
        "packing_cpu_share": round(bare_cpu_s / pack_cpu_s, 3),  # whatever else the machine does
        "packed_mib": packed >> 20,
        "from_memory": _in_process(photos, edge, 1e3),
        "from_disk": _in_process(photos, edge, limit),
    }


def _in_process(photos: Path, edge: int, memory_gib: float) -> dict[str, Any]:
    """`epochs` in a separate process, to measure its peak memory."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else "benchmarks.images.main"]
    found = subprocess.run(
        [*command, "--epochs-of", str(photos), "--edge", str(edge), "--gib", str(memory_gib)],
        env=python_environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    values: dict[str, Any] = json.loads(found.stdout)
    return values


def show(found: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{found['images']:,} JPEGs of {found['size']} at {found['edge']} pixels")
    table.add_column("what")
    table.add_column("images/s", justify="right")
    table.add_column("memory", justify="right")
    table.add_row("bare decoder", f"{found['bare_images_per_s']:,}", "")
    share, cpu_share = found["packing_share"], found["packing_cpu_share"]
    packing = f"packing, {share:.0%} of the bare decoder ({cpu_share:.0%} by CPU time)"
    table.add_row(packing, f"{found['packing_images_per_s']:,}", "")
    for kind in ("from_memory", "from_disk"):
        memory = f"{found[kind]['memory_mib']:,} MiB"
        for name, speeds in (("batches of", "images_per_s"), ("trained", "trained_images_per_s")):
            for number, speed in enumerate(found[kind][speeds], 1):
                where = f"{name} epoch {number}, {kind.replace('_', ' ')}"
                table.add_row(where, f"{speed:,}", memory if name == "batches of" else "")
    console.print(table)
    console.print(
        f"packed training set {found['packed_mib']:,} MiB, from disk allowed a tenth of it; "
        f"load {found['load']:.1f}",
        highlight=False,
    )


def main(arguments: Sequence[str], console: Console) -> int:
    options = _options().parse_args(arguments)
    if options.epochs_of:
        with redirect_stdout(sys.stderr):  # a training says how far it is
            costs = epochs(options.epochs_of, options.edge, options.gib)
        print(json.dumps(costs))
        return 0
    with tempfile.TemporaryDirectory(prefix="kiln-images-") as folder:
        os.environ["KILN_CACHE"] = f"{folder}/cache"
        width, height = options.size
        found = measure(Path(folder, "photos"), options.images, width, height, options.edge)
    show(found, console)
    path = user_path(options.out) / "images.json"
    write_whole(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    console.print(f"  {path}", highlight=False, soft_wrap=True)
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:images_benchmark", __doc__)
    add = parser.add_argument
    add("--images", type=int, default=10_000, help="default: %(default)s")
    add("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"))
    add("--edge", type=int, default=64, help="edge of the model's images (%(default)s)")
    add("--out", default=".", help="folder for images.json (default: here)")
    add("--epochs-of", help=argparse.SUPPRESS)
    add("--gib", type=float, default=2.0, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
