"""The stage `prepare`: fixes the inputs of later stages, so that each reruns only when its own
change.

It writes the resolved configuration (independent of comments in configs/), hashes of the sources of
each later stage (independent of other changes in ml/), the dataset in training form (image files
are packed), and its counts.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.errors import InstantiationException
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from common.files import sha256_of, write_whole
from common.terminal import Progress
from ml.data.checks import open_data, unwrapped
from ml.data.cifar10 import DatasetError, read_records
from ml.data.cifar10_files import FILE_NAMES, Mismatch, PinError, link_or_copy, read_pin
from ml.data.packing import FACTS, PackedImages, read_packed
from ml.pipeline.layout import (
    CODE,
    CONFIG,
    DATA,
    DATASET,
    METRICS,
    PARAMS,
    PIN,
    PREPARED,
    STAGES,
    ChoicesError,
    enter_stage,
    programs_folder,
    read_choices,
    read_params,
)
from ml.runs.provenance import own_code
from ml.training.config import ConfigError, DataConfig, FolderConfig, is_fast_dev_run, resolved

CONFIGS = Path("configs")


def prepare(lists: Path) -> None:
    """Runs the stage in the current folder.

    Args:
        lists: the folder of the files ``train.sources`` and so on, see `sources.bzl`.

    Raises:
        ChoicesError, ConfigError, DatasetError, InstantiationException, Mismatch, PinError: invalid
            input.
    """
    source = read_dataset(PARAMS)
    images = None if source == DATA else source
    if source.is_file():
        raise ChoicesError(
            f"{PARAMS}: dataset: {source} is a file, and the images that it lists would not be "
            f"tracked: write dataset: {source.parent}, and train.data.folder: {source}"
        )
    config = resolve(read_choices(PARAMS, "train"), CONFIGS, images)
    if is_fast_dev_run(config):
        raise ConfigError("a fast development run keeps nothing that could be evaluated")
    _check_reads(config, source)
    own = own_code(config)
    _check_keyed(own.values())
    code = {}
    for stage in STAGES[1:]:
        names = (lists / f"{stage}.sources").read_text(encoding="utf-8").split()
        code[stage] = hashes([*names, *map(str, own.values())])
    if images:
        files = packed(config, images)
        config.data.folder = str(DATASET)
    else:
        pin = read_pin(PIN)
        pin.check(DATA)
        files = [DATA / name for name in FILE_NAMES]
    shutil.rmtree(PREPARED, ignore_errors=True)
    DATASET.mkdir(parents=True)
    with Progress("placing the dataset"):  # between file systems it is copied
        for file in files:
            link_or_copy(file, DATASET / file.name)
    if not images:
        write_whole(DATASET / FACTS, json.dumps({"digest": pin.digest}) + "\n")
    for stage, hashed in code.items():
        write_whole(CODE / f"{stage}.txt", hashed)
    write_whole(METRICS / "data.json", json.dumps(counts(DATASET), indent=2) + "\n")
    write_whole(CONFIG, OmegaConf.to_yaml(config))


def read_dataset(path: Path) -> Path:
    """The dataset folder in params.yaml, relative to the workspace.

    Raises:
        ChoicesError: the file cannot be read, or does not name a folder in the workspace.
    """
    named = read_params(path).get("dataset")
    folder = Path(named) if isinstance(named, str) else Path("..")
    if folder.is_absolute() or ".." in folder.parts:
        raise ChoicesError(
            f"{path}: dataset is {named!r}, expected a folder in this workspace: ml/data for "
            "CIFAR-10, or images that DVC pins, such as photos"
        )
    return folder


def resolve(choices: Mapping[str, Any], configs: Path, images: Path | None = None) -> DictConfig:
    """The configuration of ``bazel run //ml:train`` with these choices as overrides.

    Args:
        choices: groups and values, nested as in the configuration: ``{"experiment": "smoke",
            "data": {"batch_size": 256}}``.
        configs: the folder of Hydra groups.
        images: the dataset's folder of image files, unless it is CIFAR-10.

    Raises:
        ConfigError: a choice is unknown or invalid.
    """
    # Null groups are left out: Hydra has no such override, and the default stays.
    chosen = {k: v for k, v in choices.items() if v is not None or not (configs / k).is_dir()}
    first = [] if images is None else ["data=folder", f"data.folder={_typed(str(images))}"]
    return resolved([*first, *overrides(chosen)], configs)


def overrides(choices: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The choices as Hydra overrides: ``experiment=smoke``, ``data.batch_size=256``."""
    for key, value in choices.items():
        if isinstance(value, Mapping):
            yield from overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={_typed(value)}"


def _typed(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return str(value).lower().replace("none", "null")
    if isinstance(value, list):
        return f"[{','.join(_typed(item) for item in value)}]"
    # In Hydra's quotes, a backslash is literal except before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), str(value))
    return f"'{escaped}'"


def _check_reads(config: DictConfig, source: Path) -> None:
    """Rejects a dataset that the pipeline cannot track, since its changes would go unnoticed."""
    expected = DataConfig._target_ if source == DATA else FolderConfig._target_
    if (target := config.data._target_) != expected:
        raise ConfigError(
            f"data._target_={target}: expected {expected}, since {PARAMS} says dataset: {source}. "
            "Name the folder of your image files there; another dataset is trained by //ml:train"
        )


def packed(config: DictConfig, images: Path) -> list[Path]:
    """The files of the packed dataset, in this machine's cache.

    Raises:
        DatasetError: the images are invalid, or one is outside the folder.
    """
    data = open_data(config)
    root = images.absolute()
    if outside := [p for p in (data.folder, *data.files) if not p.is_relative_to(root)]:
        raise DatasetError(
            f"{outside[0]} lies outside of {images}, which is the dataset in {PARAMS}: a change of "
            "it would not be noticed"
        )
    return [data.packed.folder / name for name in (*FILE_NAMES, FACTS)]


def _check_keyed(own: Iterable[Path]) -> None:
    """Rejects user code whose changes would not rerun this stage."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    deps = [Path(dep).absolute() for dep in stages["prepare"]["deps"]]
    if missing := [path for path in own if not any(path.is_relative_to(dep) for dep in deps)]:
        raise ConfigError(
            f"{', '.join(map(str, missing))}: code that the configuration reaches and the pipeline "
            "does not know: add it, or its folder, to the deps of prepare in dvc.yaml"
        )


def hashes(names: Iterable[str]) -> str:
    """A line ``SHA-256  name`` per file, as in sha256sum; missing files are skipped."""
    paths = sorted(Path(name) for name in names)
    digests = ((sha256_of(p), p) for p in paths if p.is_file())
    return "".join(f"{digest}  {path}\n" for digest, path in digests)


def counts(folder: Path) -> dict[str, int]:
    """Images in each part, the smallest and the largest class, and how many packed test images are
    also training images.
    """
    found, fingerprints = dict[str, int](), dict[str, list[bytes]]()
    for name in ("train", "test"):
        images, labels = _labelled(folder, name)
        classes = np.unique(labels, return_counts=True)[1]
        found[f"{name}_images"] = len(labels)
        found[f"{name}_smallest_class"] = int(classes.min(initial=len(labels)))
        found[f"{name}_largest_class"] = int(classes.max(initial=0))
        fingerprints[name] = [*_fingerprints(images)]
    known = set(fingerprints["train"])
    found["test_images_in_train"] = sum(image in known for image in fingerprints["test"])
    return found


def _labelled(
    folder: Path, part: str
) -> tuple[NDArray[np.uint8] | PackedImages, NDArray[np.int64]]:
    """One of CIFAR-10's files, or of a packed dataset's."""
    if "format" in json.loads((folder / FACTS).read_text(encoding="utf-8")):
        dataset = read_packed(folder)
        return dataset.images(part), dataset.labels(part)
    records = read_records(folder / f"{part}.bin")
    return records.images, records.labels


def _fingerprints(images: NDArray[np.uint8] | PackedImages) -> Iterator[bytes]:
    with Progress("counting the dataset", len(images)) as progress:
        for number in range(len(images)):
            yield hashlib.blake2b(images[number].tobytes(), digest_size=16).digest()
            progress.update(number)


def main() -> int:
    enter_stage()
    try:
        prepare(programs_folder())
    except (
        ChoicesError,
        ConfigError,
        DatasetError,
        InstantiationException,
        Mismatch,
        PinError,
    ) as exc:
        print(f"{unwrapped(exc)}\nNothing was prepared.", file=sys.stderr)
        return 2
    print(f"Configuration, sources and dataset are settled: {os.fspath(PREPARED)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
