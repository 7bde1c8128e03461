"""Class names of captured predictions, from the models that made them."""

from collections.abc import Iterable
from functools import cache

from common.model.artifact import ArtifactError, ArtifactMetadata, read_artifact
from common.objects import StoreError
from ml.labels.tables import LabelsError
from ml.registry.ledger import RegistryError
from ml.registry.registry import Registry, usual_location
from ml.runs.models import BUNDLED_MODELS, model_path


def metadata_of(version: str, registry: str | None = None) -> ArtifactMetadata | None:
    """A model's metadata, if it is registered or bundled."""
    for known in _bundled():
        if known.version == version:
            return known
    try:
        return read_artifact(Registry.open(registry or usual_location()).versions.model(version))
    except (RegistryError, StoreError, ArtifactError):
        return None


def class_names(
    versions: Iterable[str], model: str | None = None, registry: str | None = None
) -> tuple[str, ...]:
    """The class names that all these models share.

    Args:
        versions: model versions.
        model: a model file or run folder whose class names are used, whatever the versions.
        registry: where to look for models (default: its usual location).

    Raises:
        LabelsError: no model is known, or their classes differ.
        ArtifactError: the named model cannot be read.
    """
    if model:
        try:
            return read_artifact(model_path(model).read_bytes()).classes
        except ArtifactError as exc:
            raise ArtifactError(f"{model}: {exc}") from exc
    known = {version: metadata_of(version, registry) for version in sorted(set(versions))}
    names = {metadata.classes for metadata in known.values() if metadata}
    if len(names) == 1:
        return names.pop()
    shown = ", ".join(version[:12] for version in known) or "none"
    what = "have different classes" if names else "are neither registered nor bundled"
    raise LabelsError(
        f"The models of the captured predictions ({shown}) {what}: choose one with --model, a "
        "model.onnx or its run folder"
    )


@cache
def _bundled() -> tuple[ArtifactMetadata, ...]:
    return tuple(read_artifact(file.read_bytes()) for file in BUNDLED_MODELS if file.is_file())
