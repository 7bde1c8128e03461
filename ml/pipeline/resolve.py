"""Resolves params.yaml to the full configuration of a training."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ml.training.config import resolved


class ChoicesError(ValueError):
    """params.yaml cannot be used; the message names the place and the expectation."""


def read_choices(path: Path, section: str) -> dict[str, Any]:
    """A section of params.yaml.

    Raises:
        ChoicesError: the file or the section cannot be read.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as exc:
        raise ChoicesError(f"{path} cannot be read ({exc.strerror}): restore it") from exc
    except (YAMLError, OmegaConfBaseException) as exc:
        raise ChoicesError(f"{path} is not YAML: {' '.join(str(exc).split())}") from exc
    chosen = values.get(section) if isinstance(values, dict) else None
    if not isinstance(chosen, dict):
        raise ChoicesError(f"{path} needs a section '{section}:' of names and values")
    return chosen


def resolve(choices: Mapping[str, Any], configs: Path) -> DictConfig:
    """What ``bazel run //ml:train`` would train with these choices as its overrides.

    Args:
        choices: groups and values, nested as in the configuration: ``{"experiment": "smoke",
            "data": {"batch_size": 256}}``.
        configs: the folder of Hydra groups.

    Raises:
        ConfigError: a choice that the configuration does not take, or that makes no sense.
    """
    # Groups that are null are left out: Hydra takes no such override, the default stays.
    chosen = {k: v for k, v in choices.items() if v is not None or not (configs / k).is_dir()}
    return resolved(list(overrides(chosen)), configs)


def overrides(choices: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The choices as one types them for Hydra: ``experiment=smoke``, ``data.batch_size=256``."""
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
    # In Hydra's quotes, a backslash is a backslash, except in front of a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), str(value))
    return f"'{escaped}'"
