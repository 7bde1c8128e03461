"""Packs the image files of a resolved configuration's dataset: train.bin, test.bin, and
dataset.json about them. Training depends on this output only: a renamed photo does not retrain.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra.errors import InstantiationException

from ml.data.checks import open_data
from ml.data.cifar10 import DatasetError
from ml.runs.folder import RunFolder
from ml.training.config import ConfigError, FolderConfig

REFUSALS = (ConfigError, DatasetError, InstantiationException)


def main(arguments: Sequence[str]) -> None:
    """The action's entry point; all outputs are in one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("config", "images", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(arguments)
    cfg = RunFolder(options.config.parent).load_config()
    if cfg.data._target_ != FolderConfig._target_:
        raise ConfigError(
            f"data._target_={cfg.data._target_}: expected {FolderConfig._target_}, since the "
            "dataset of this model is image files; add data=folder to its overrides"
        )
    with TemporaryDirectory(prefix="kiln-pack-", dir=options.output.parent) as cache:
        os.environ["KILN_CACHE"] = cache
        packed = open_data(cfg, options.images).packed
        for file in sorted(packed.folder.iterdir()):
            shutil.move(file, options.output / file.name)
