"""Shows registered models and moved aliases in Weights & Biases; the registry is the truth."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml.registry.manifest import Manifest


def mirror(manifest: Manifest, model: bytes, aliases: Sequence[str], project: str) -> str:
    """Logs a version as an artifact with its aliases.

    Returns:
        What became of it, for the user: an outage there is no error here.
    """
    try:
        return _log(manifest, model, aliases, project)
    except Exception as exc:  # whatever a network, a key or a release of theirs comes up with
        return f"not mirrored to W&B: {type(exc).__name__}: {exc}"


def _log(manifest: Manifest, model: bytes, aliases: Sequence[str], project: str) -> str:
    import wandb

    has_key = "WANDB_API_KEY" in os.environ
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    folder = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", ""), ".kiln")
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off")
    options = {"project": project, "job_type": "registry", "dir": str(folder), "mode": mode}
    with tempfile.TemporaryDirectory(prefix="kiln-mirror-") as staging:
        path = Path(staging, "model.onnx")
        path.write_bytes(model)
        with wandb.init(**options, settings=settings) as run:
            artifact = wandb.Artifact(manifest.name, type="model", metadata=manifest.as_dict())
            artifact.add_file(str(path))
            run.log_artifact(artifact, aliases=[manifest.version[:12], *aliases])
    return f"mirrored to W&B project {project} ({mode})"
