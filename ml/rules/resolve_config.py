"""Composes a preset into the plain values that a training is keyed by."""

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
DEFAULT = "default"  # the configuration as it stands, without preset or experiment


def resolve(preset: str, overrides: Sequence[str] = (), configs: Path = CONFIGS) -> DictConfig:
    """The values of a preset or an experiment, sorted by key; not where and how it is started.

    Raises:
        ConfigError: no such preset, key or type, or a value that makes no sense.
    """
    group = "experiment" if (configs / "experiment" / f"{preset}.yaml").is_file() else "preset"
    chosen = [] if preset == DEFAULT else [f"{group}={preset}"]
    cfg = resolved([*chosen, *overrides], configs)
    known = (DataConfig._target_, FolderConfig._target_)
    check_reads_files(cfg, "the build works", known)
    return cfg


def main(arguments: Sequence[str]) -> None:
    """Entry point of the action."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--override", action="append", default=[])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    cfg = resolve(options.preset, options.override)
    write_whole(options.output, OmegaConf.to_yaml(cfg, sort_keys=True))
