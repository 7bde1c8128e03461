"""Composes a preset into the plain values that a training is keyed by."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.files import write_whole
from ml.runs.folder import run_config
from ml.training.config import ConfigError, check_values, register_schema

REFUSALS = (ConfigError, HydraException, OmegaConfBaseException)
CONFIGS = Path(__file__).absolute().parents[2] / "configs"
DEFAULT = "default"  # the configuration as it stands, without preset or experiment


def resolved(preset: str, overrides: Sequence[str] = (), configs: Path = CONFIGS) -> DictConfig:
    """The values of a preset or an experiment, sorted by key; not where and how it is started.

    Raises:
        HydraException, OmegaConfBaseException: no such preset, key or type.
        ConfigError: a value that makes no sense.
    """
    register_schema()
    group = "experiment" if (configs / "experiment" / f"{preset}.yaml").is_file() else "preset"
    chosen = [] if preset == DEFAULT else [f"{group}={preset}"]
    with initialize_config_dir(str(configs), version_base="1.3"):
        cfg = compose("train", [*chosen, *overrides])
    check_values(cfg)
    return run_config(cfg)


def main(arguments: Sequence[str]) -> None:
    """Entry point of the action."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--override", action="append", default=[])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    cfg = resolved(options.preset, options.override)
    write_whole(options.output, OmegaConf.to_yaml(cfg, sort_keys=True))
