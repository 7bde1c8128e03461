"""Class names of captured answers: those of the models that gave them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from common.model.artifact import ArtifactError, ArtifactMetadata, read_artifact
from common.objects import StoreError
from ml.labels.tables import LabelsError
from ml.registry.ledger import RegistryError
from ml.registry.registry import Registry, usual_location
from ml.runs.inputs import BUNDLED_MODELS, model_path


def metadata_of(version: str, registry: str | None = None) -> ArtifactMetadata | None:
    """What a model says of itself, if the registry has it or it is the bundled one."""
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
    """The class names that all these models answer with.

    Args:
        versions: of the models.
        model: a model file or a run folder whose names are taken, whatever the versions.
        registry: where models are looked for (default: its usual place).

    Raises:
        LabelsError: no model is known, or they tell different classes.
        ArtifactError: the named model cannot be read.
    """
    if model:
        return read_artifact(model_path(model).read_bytes()).classes
    known = {version: metadata_of(version, registry) for version in sorted(set(versions))}
    names = {metadata.classes for metadata in known.values() if metadata}
    if len(names) == 1:
        return names.pop()
    shown = ", ".join(version[:12] for version in known) or "none"
    what = "tell different classes" if names else "are neither registered nor bundled"
    raise LabelsError(
        f"The models of the captured answers ({shown}) {what}: name one with --model, a model.onnx "
        "or its run folder"
    )


@cache
def _bundled() -> tuple[ArtifactMetadata, ...]:
    return tuple(read_artifact(file.read_bytes()) for file in BUNDLED_MODELS if file.is_file())
