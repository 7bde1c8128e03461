"""Where the model is: the variable KILN_MODEL, or the artifact that the program was built with."""

import os
from collections.abc import Mapping
from pathlib import Path

from serve.predictor import ArtifactError, Predictor
from serve.settings import Settings

_BUILT_IN = "KILN_BUILT_IN_MODEL"  # set by the program's BUILD file


def load_predictor(settings: Settings, environ: Mapping[str, str] = os.environ) -> Predictor:
    """The predictor of the settings, warm and checked against the artifact's own answers.

    Raises:
        ArtifactError: names the file and why it cannot be served.
    """
    built_in = environ.get(_BUILT_IN)
    path = settings.model or (Path(built_in) if built_in else None)
    if path is None:
        raise ArtifactError("no model: set KILN_MODEL to the path of a model.onnx")
    if settings.model and not path.is_absolute():  # `bazel run` starts programs elsewhere
        path = Path(environ.get("BUILD_WORKING_DIRECTORY", ""), path)
    predictor = Predictor.load(path, settings.session_threads)
    try:
        predictor.check()
    except ArtifactError as exc:
        raise ArtifactError(f"cannot serve {path}: {exc}") from exc
    return predictor
