"""The choices in params.yaml."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError


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
