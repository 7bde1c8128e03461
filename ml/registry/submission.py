"""Reads what is to be registered: a run folder, or a model file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from common.model.artifact import ArtifactError, ArtifactMetadata, read_artifact
from ml.registry.ledger import RegistryError
from ml.registry.versions import Lineage, Parent
from ml.runs.folder import RunFolder, config_digest

_BENCHMARK = Path("benchmark", "benchmark.json")


@dataclass(frozen=True)
class Submission:
    """An artifact's bytes and what is known of how it was made.

    Attributes:
        weights: of the finished run that made it, to train further from; None where they are not
            known to be its.
    """

    data: bytes
    lineage: Lineage
    weights: bytes | None = None


def read_submission(path: Path, parents: Sequence[Parent] = ()) -> Submission:
    """Reads a finished run folder, or an ONNX file, with its folder if that is the run that made
    it.

    An INT8 model in the folder of its fp32 model gets that as its parent.

    Raises:
        RegistryError: it does not exist, is unfinished, or its configuration is not the model's.
    """
    run = RunFolder(path if path.is_dir() else path.parent)
    file = run.model if path.is_dir() else path
    if not file.is_file():
        what = f"{path} holds no model.onnx: " if path.is_dir() else f"{path} does not exist: "
        raise RegistryError(what + "expected a finished run folder or a model artifact")
    try:
        data = file.read_bytes()
        metadata = read_artifact(data)
    except ArtifactError as exc:
        raise RegistryError(f"{file} is refused: {exc}") from exc
    except OSError as exc:
        raise RegistryError(f"{file} cannot be read: {exc.strerror}") from exc
    config = _config(run, metadata)
    if config is None and path.is_dir():
        raise RegistryError(
            f"{run.config} is missing or not what {file.name} was trained with "
            f"(its digest is {metadata.config_digest}): register the file alone, or another folder"
        )
    summary = _json(run.summary) if config is not None else None
    if summary and summary.get("model_version") not in (None, metadata.version):
        summary = None  # the fp32 model beside this one
    benchmark = _json(run.path / _BENCHMARK) if config is not None else None
    found = [*parents, *_fp32_sibling(run, metadata, known=bool(parents))]
    is_of_run = summary is not None and summary.get("model_version") == metadata.version
    weights = run.weights.read_bytes() if is_of_run and run.weights.is_file() else None
    return Submission(data, Lineage(config, summary, benchmark, tuple(found)), weights)


def _config(run: RunFolder, metadata: ArtifactMetadata) -> dict[str, Any] | None:
    """The run's resolved configuration, if the model was trained with it."""
    if not run.config.is_file():
        return None
    try:
        loaded = run.load_config()
        if config_digest(loaded) != metadata.config_digest:
            return None
    except Exception:  # YAML and OmegaConf raise many errors: not a run's configuration
        return None
    plain: Any = OmegaConf.to_container(loaded, resolve=True)
    return dict(plain)


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise RegistryError(f"{path} is not JSON ({exc}): write it again or remove it") from exc
    return dict(values)


def _fp32_sibling(run: RunFolder, metadata: ArtifactMetadata, *, known: bool) -> list[Parent]:
    if known or metadata.quantisation == "none" or not run.model.is_file():
        return []
    try:
        sibling = read_artifact(run.model.read_bytes())
    except (ArtifactError, OSError):
        return []
    same_run = sibling.config_digest == metadata.config_digest and sibling.quantisation == "none"
    return [Parent(sibling.version, f"{metadata.quantisation} of")] if same_run else []
