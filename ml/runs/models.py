"""The model that a command is given: a file, a run folder's, or the bundled one."""

from pathlib import Path

from common.files import user_path
from ml.artifact.artifact import ArtifactError

BUNDLED = Path(__file__).parents[1] / "bundled" / "model.onnx"
BUNDLED_MODELS = (BUNDLED, BUNDLED.with_name("model.int8.onnx"))  # fp32, INT8


def model_path(text: str | None) -> Path:
    """The model file for an argument: a file, a run folder's, or the bundled one.

    Raises:
        ArtifactError: the file does not exist.
    """
    path = user_path(text) if text else BUNDLED
    if path.is_dir():
        path /= "model.onnx"
    if not path.is_file():
        raise ArtifactError(f"{path} is not a file: expected a model.onnx, or a run folder")
    return path
