"""Locates the model: the variable KILN_MODEL, or the artifact that the program was built with."""

import os
from collections.abc import Mapping
from pathlib import Path

from common.files import user_path
from common.model.artifact import (
    ArtifactError,
    ArtifactMetadata,
    read_artifact,
)
from serve.settings import Settings

_BUILT_IN = Path(__file__).parents[1] / "built_in" / "model.onnx"  # a copy of //serve:model


def model_path(settings: Settings, environ: Mapping[str, str] = os.environ) -> Path:
    """The artifact to serve.

    Raises:
        ArtifactError: none was named, and none was built in.
    """
    if settings.model:
        return user_path(settings.model)
    if _BUILT_IN.exists():
        return _BUILT_IN
    raise ArtifactError("no model: set KILN_MODEL to the path of a model.onnx")


def read_model(path: Path) -> ArtifactMetadata:
    """What the artifact says about itself, once it is verified; needs no onnxruntime.

    Raises:
        ArtifactError: names the file and why it cannot be served.
    """
    try:
        return read_artifact(path.read_bytes())
    except OSError as exc:
        raise ArtifactError(f"cannot read the model {path}: {exc.strerror}") from exc
    except ArtifactError as exc:
        raise ArtifactError(f"cannot serve {path}: {exc}") from exc
