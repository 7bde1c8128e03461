"""Locates the model: the variable KILN_MODEL, or the model built into the program.

A folder may hold one model in several precisions, as a run's folder does: model.onnx, and other
files of the same training run. The service takes the one named by KILN_PRECISION, or the fastest.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common.files import user_path
from common.model.artifact import ArtifactError, ArtifactMetadata, read_artifact
from serve.inference.signed import read_bytes
from serve.settings import Settings

NAME = "model.onnx"
_BUILT_IN = Path(__file__).parents[1] / "built_in"  # a copy of //serve:model

Fastest = Callable[[Sequence[Path], int], Path]


def fastest(paths: Sequence[Path], threads: int) -> Path:
    """The fastest model, measured here; imports onnxruntime."""
    from serve.inference.predictor import fastest

    return fastest(paths, threads)


def model_path(settings: Settings, choose: Fastest = fastest) -> Path:
    """The artifact to serve. If a folder has several precisions and the settings name none,
    `choose` picks one.

    Raises:
        ArtifactError: there is no model, or none of the requested precision.
    """
    place = user_path(settings.model) if settings.model else _BUILT_IN
    if not settings.model and not (place / NAME).exists():
        raise ArtifactError(f"no model: set KILN_MODEL to the path of a {NAME}")
    files = _files(place)
    if not settings.precision and len(files) == 1:
        return files[0]
    found = _precisions(files, settings.model_key)
    if not settings.precision:
        paths = list(found.values())
        return paths[0] if len(paths) == 1 else choose(paths, settings.session_threads)
    if settings.precision not in found:
        raise ArtifactError(
            f"KILN_PRECISION is {settings.precision!r}, but {place} has the model in "
            f"{' and '.join(found)}: name another one, or the folder that holds both"
        )
    return found[settings.precision]


def precision_of(metadata: ArtifactMetadata) -> str:
    """The model's precision, as KILN_PRECISION names it."""
    return "fp32" if metadata.quantisation == "none" else metadata.quantisation


def read_model(path: Path, key: str = "") -> ArtifactMetadata:
    """The verified artifact's metadata; needs no onnxruntime.

    Args:
        key: KILN_MODEL_KEY, as for `signed.read_bytes`.

    Raises:
        ArtifactError: names the file and why it cannot be served.
    """
    try:
        return read_artifact(read_bytes(path, key))
    except OSError as exc:
        raise ArtifactError(f"cannot read the model {path}: {exc.strerror}") from exc
    except ArtifactError as exc:
        raise ArtifactError(f"cannot serve {path}: {exc}") from exc


def _files(place: Path) -> list[Path]:
    """The model's main file first."""
    if not place.is_dir():
        return [place]
    first = place / NAME
    return [first, *sorted(path for path in place.glob("*.onnx") if path != first)]


def _precisions(files: Sequence[Path], key: str) -> Mapping[str, Path]:
    """The first file of each precision, among those from the same training run."""
    first = read_model(files[0], key)
    found = {precision_of(first): files[0]}
    for path in files[1:]:
        other = read_model(path, key)
        if _training(other) == _training(first):
            found.setdefault(precision_of(other), path)
    return found


def _training(metadata: ArtifactMetadata) -> tuple[object, ...]:
    return metadata.config_digest, metadata.dataset_digest, metadata.classes, metadata.resize
