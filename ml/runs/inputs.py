"""Inputs of a command: a model by file or run folder, numbers as options."""

from argparse import ArgumentTypeError
from pathlib import Path

from common.files import user_path
from ml.artifact.artifact import ArtifactError

BUNDLED = Path(__file__).parents[1] / "bundled" / "model.onnx"
BUNDLED_MODELS = (BUNDLED, BUNDLED.with_name("model.int8.onnx"))  # fp32, INT8


def model_path(text: str | None) -> Path:
    """The model file that a user means: a file, a run folder's, or the bundled one.

    Raises:
        ArtifactError: there is no such file.
    """
    path = user_path(text) if text else BUNDLED
    if path.is_dir():
        path /= "model.onnx"
    if not path.is_file():
        raise ArtifactError(
            f"{path} is no file: name a model.onnx, or the run folder of a training"
        )
    return path


def count(text: str) -> int:
    """Type of an option that is a whole number above 0."""
    if (number := int(text)) < 1:
        raise ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return number


def part(text: str) -> float:
    """Type of an option from 0 to below 1."""
    if not 0 <= (number := float(text)) < 1:
        raise ArgumentTypeError(f"expected a share from 0 to below 1, got {text}")
    return number


def share(text: str) -> float:
    """Type of an option that lies between 0 and 1, without both."""
    if not 0 < (number := float(text)) < 1:
        raise ArgumentTypeError(f"expected a share between 0 and 1, got {text}")
    return number
