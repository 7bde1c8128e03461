"""Resolves a preset to the plain values that a training depends on."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from common.files import write_whole
from ml.training.config import (
    CONFIGS,
    ConfigError,
    DataConfig,
    FolderConfig,
    check_reads_files,
    resolved,
)

REFUSALS = (ConfigError,)
DEFAULT = "default"  # the default configuration, without preset or experiment


def resolve(preset: str, overrides: Sequence[str] = (), configs: Path = CONFIGS) -> DictConfig:
    """The values of a preset or an experiment, sorted by key, without where and how it is started.

    Raises:
        ConfigError: an unknown preset or key, a wrong type, or an invalid value.
    """
    group = "experiment" if (configs / "experiment" / f"{preset}.yaml").is_file() else "preset"
    chosen = [] if preset == DEFAULT else [f"{group}={preset}"]
    cfg = resolved([*chosen, *overrides], configs)
    known = (DataConfig._target_, FolderConfig._target_)
    check_reads_files(cfg, "the build works", known)
    return cfg


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--preset", required=True)
    add("--override", action="append", default=[])
    add("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    cfg = resolve(options.preset, options.override)
    write_whole(options.output, OmegaConf.to_yaml(cfg, sort_keys=True))
