"""Arguments of commands: a model by file or run folder, and numbers."""

from argparse import ArgumentTypeError
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


def count(text: str) -> int:
    """Argument type: a whole number above 0."""
    if (number := int(text)) < 1:
        raise ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return number


def part(text: str) -> float:
    """Argument type: a share from 0 to below 1."""
    if not 0 <= (number := float(text)) < 1:
        raise ArgumentTypeError(f"expected a share from 0 to below 1, got {text}")
    return number


def share(text: str) -> float:
    """Argument type: a share strictly between 0 and 1."""
    if not 0 < (number := float(text)) < 1:
        raise ArgumentTypeError(f"expected a share between 0 and 1, got {text}")
    return number
