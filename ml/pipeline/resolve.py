"""Resolves params.yaml to the full configuration of a run."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ml.training.config import resolved


class ChoicesError(ValueError):
    """params.yaml is invalid; the message names the place and what was expected."""


def read_choices(path: Path, section: str) -> dict[str, Any]:
    """A section of params.yaml.

    Raises:
        ChoicesError: the file or the section cannot be read.
    """
    chosen = _read(path).get(section)
    if not isinstance(chosen, dict):
        raise ChoicesError(f"{path} needs a section '{section}:' of names and values")
    return chosen


def _read(path: Path) -> dict[Any, Any]:
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as exc:
        raise ChoicesError(f"{path} cannot be read ({exc.strerror}): restore it") from exc
    except (YAMLError, OmegaConfBaseException) as exc:
        raise ChoicesError(f"{path} is not YAML: {' '.join(str(exc).split())}") from exc
    return values if isinstance(values, dict) else {}


def read_dataset(path: Path) -> Path:
    """The dataset folder in params.yaml, relative to the workspace.

    Raises:
        ChoicesError: the file cannot be read, or does not name a folder in the workspace.
    """
    named = _read(path).get("dataset")
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
