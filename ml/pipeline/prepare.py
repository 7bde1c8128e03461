"""The stage `prepare`: settles what the later stages depend on, so that they run again only for
what concerns them.

It leaves the resolved configuration (a comment in configs/ changes nothing in it), a list of the
sources behind each later stage with their hashes (a change elsewhere in ml/ changes nothing in
them), and counts of the dataset.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from common.files import write_whole
from common.terminal import Progress
from ml.data.cifar10 import DatasetError, Records, read_records
from ml.data.cifar10_pin import FILE_NAMES, Mismatch, PinError, read_pin
from ml.pipeline.layout import (
    CODE,
    CONFIG,
    DATA,
    METRICS,
    PARAMS,
    PIN,
    PREPARED,
    STAGES,
    enter_stage,
    programs_folder,
)
from ml.pipeline.resolve import ChoicesError, read_choices, resolve
from ml.runs.own_code import own_code
from ml.training.config import ConfigError, check_reads_files, is_fast_dev_run

CONFIGS = Path("configs")


def prepare(lists: Path) -> None:
    """Runs the stage in the current folder.

    Args:
        lists: the folder of the files ``train.sources`` and so on, see `sources.bzl`.

    Raises:
        ChoicesError, ConfigError, DatasetError, Mismatch, PinError: what to correct.
    """
    config = resolve(read_choices(PARAMS, "train"), CONFIGS)
    if is_fast_dev_run(config):
        raise ConfigError("a fast development run keeps nothing that could be evaluated")
    check_reads_files(config, "the pipeline works")
    read_pin(PIN).check(DATA)
    own = own_code(config)
    _check_keyed(own.values())
    shutil.rmtree(PREPARED, ignore_errors=True)
    for stage in STAGES[1:]:
        names = (lists / f"{stage}.sources").read_text(encoding="utf-8").split()
        write_whole(CODE / f"{stage}.txt", hashes([*names, *map(str, own.values())]))
    write_whole(METRICS / "data.json", json.dumps(counts(DATA), indent=2) + "\n")
    write_whole(CONFIG, OmegaConf.to_yaml(config))


def _check_keyed(own: Iterable[Path]) -> None:
    """Refuses code of the user's own whose change would not run this stage again."""
    stages = OmegaConf.load("dvc.yaml").stages
    deps = [Path(str(dep)).absolute() for dep in stages.prepare.deps]
    if missing := [path for path in own if not any(path.is_relative_to(dep) for dep in deps)]:
        raise ConfigError(
            f"{', '.join(map(str, missing))}: code that the configuration reaches and the pipeline "
            "does not know: add it, or its folder, to the deps of prepare in dvc.yaml"
        )


def hashes(names: Iterable[str]) -> str:
    """A line ``SHA-256  name`` for each file, as sha256sum writes it; files that are gone are
    left out."""
    paths = sorted(Path(name) for name in names)
    digests = ((hashlib.sha256(p.read_bytes()).hexdigest(), p) for p in paths if p.is_file())
    return "".join(f"{digest}  {path}\n" for digest, path in digests)


def counts(folder: Path) -> dict[str, int]:
    """Images in each part, the smallest and the largest class, and how many test images are also
    training images."""
    parts = {name.removesuffix(".bin"): read_records(folder / name) for name in FILE_NAMES}
    found: dict[str, int] = {}
    for name, records in parts.items():
        classes = np.unique(records.labels, return_counts=True)[1]
        found[f"{name}_images"] = len(records)
        found[f"{name}_smallest_class"] = int(classes.min())
        found[f"{name}_largest_class"] = int(classes.max())
    known = set(_fingerprints(parts["train"]))
    found["test_images_in_train"] = sum(image in known for image in _fingerprints(parts["test"]))
    return found


def _fingerprints(records: Records) -> Iterator[bytes]:
    return (hashlib.blake2b(image, digest_size=16).digest() for image in records.images)


def main() -> int:
    enter_stage()
    try:
        with Progress("counting the dataset"):
            prepare(programs_folder())
    except (ChoicesError, ConfigError, DatasetError, Mismatch, PinError) as exc:
        print(f"{exc}\nNothing was prepared.", file=sys.stderr)
        return 2
    print(f"Configuration, sources and dataset are settled: {os.fspath(PREPARED)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
