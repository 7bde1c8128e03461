"""The model of a captured version, and images that it was not trained on."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from common.model.artifact import ArtifactError, read_artifact
from ml.artifact.artifact import Artifact, load_artifact
from ml.artifact.evaluation import Labelled
from ml.registry.registry import Registry
from ml.runs.datasets import config_beside, dataset_of
from ml.runs.models import BUNDLED_MODELS


@dataclass(frozen=True)
class Model:
    """A model for captured images, with its training configuration."""

    artifact: Artifact
    config: DictConfig | None

    @property
    def version(self) -> str:
        """Digest of graph and weights."""
        return self.artifact.metadata.version

    def held_out(self) -> Labelled:
        """The validation images of its training.

        Raises:
            DatasetError, FetchError: they are unavailable or unknown.
        """
        return dataset_of(self.artifact.metadata, self.config).read("validation")

    def test(self) -> Labelled:
        """The test images of its dataset, to evaluate estimates.

        Raises:
            DatasetError, FetchError: they are unavailable.
        """
        return dataset_of(self.artifact.metadata, self.config).read("test")


def open_model(path: Path, threads: int = 0) -> Model:
    """The model in a file, with the configuration from its run folder.

    Raises:
        ArtifactError, OSError: it cannot be used.
    """
    artifact = load_artifact(path, threads)
    return Model(artifact, config_beside(path, artifact.metadata.config_digest))


def find_model(
    version: str, files: Sequence[Path], registry: Registry | None, threads: int = 0
) -> Model | None:
    """The model of a version, from these files, the bundled models or the registry.

    Raises:
        ArtifactError: it exists but cannot be used.
        StoreError: the registry cannot be read.
    """
    for path in (*files, *BUNDLED_MODELS):
        if path.is_file() and _version(path) == version:
            return open_model(path, threads)
    if registry is None or (manifest := registry.versions.find(version)) is None:
        return None
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(registry.versions.model(version))
        file.flush()
        artifact = load_artifact(Path(file.name), threads)
    config = manifest.lineage.config
    return Model(artifact, None if config is None else OmegaConf.create(dict(config)))


def _version(path: Path) -> str:
    try:
        return read_artifact(path.read_bytes()).version
    except (ArtifactError, OSError):
        return ""
